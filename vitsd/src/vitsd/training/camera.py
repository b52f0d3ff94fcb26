"""What a camera does to an image, for models that are trained on cleaner ones.

Light, lens, sensor and file, in this order: brightness, blur, noise, JPEG. Each happens to an image
with the same probability, however strong by chance. The ranges end a little beyond what small
cameras do to 32x32 pixels; D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness
to Common Corruptions and Perturbations", arXiv:1903.12261, has the kinds.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from vitsd_runtime.types import AnyArray, Float32Array, UInt8Array

_GAIN = (0.6, 1.5)
_BLUR = (0.3, 1.3)
"""Sigma in pixels."""
_NOISE = (2.0, 14.0)
"""Sigma in levels of 255."""
_QUALITY = (30, 96)
_COLORS = (1, 3)
"""Channels that JPEG files have."""


def as_by_camera(images: UInt8Array, probability: float, random: np.random.Generator) -> UInt8Array:
    """Change brightness, blur, add noise and compress: each of them to some of the images.

    Args:
        images: ``(n, height, width, channels)``.
        probability: of each change, for each image.
        random: where all draws come from.

    Returns:
        New images of the same shape.
    """
    images = images.copy()
    for change, (low, high) in _CHANGES:
        rows = np.flatnonzero(random.random(len(images)) < probability)
        strength = random.uniform(low, high, len(rows)).astype(np.float32)
        if rows.size:
            images[rows] = change(images[rows], strength, random)
    return images


def brighten(
    images: UInt8Array, gain: Float32Array, random: np.random.Generator | None = None
) -> UInt8Array:
    """Multiply the pixels by ``gain`` ``(n,)``."""
    return _pixels(images * gain[:, None, None, None])


def blur(
    images: UInt8Array, sigma: Float32Array, random: np.random.Generator | None = None
) -> UInt8Array:
    """Blur by Gaussians of ``sigma`` pixels ``(n,)``; edges are repeated outward."""
    reach = int(np.ceil(3 * sigma.max()))
    distance = np.arange(-reach, reach + 1, dtype=np.float32)
    weights = np.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    blurred: AnyArray = images.astype(np.float32)
    for _ in ("rows", "columns"):  # blurred is the second axis, and then the two are swapped
        size = blurred.shape[1]
        padded = np.pad(blurred, ((0, 0), (reach, reach), (0, 0), (0, 0)), mode="edge")
        blurred = np.zeros_like(blurred)
        for place, weight in enumerate(weights.T):
            blurred += padded[:, place : place + size] * weight[:, None, None, None]
        blurred = np.ascontiguousarray(blurred.swapaxes(1, 2))
    return _pixels(blurred)


def add_noise(images: UInt8Array, sigma: Float32Array, random: np.random.Generator) -> UInt8Array:
    """Add Gaussian noise of ``sigma`` levels ``(n,)`` to every value."""
    noise = random.standard_normal(images.shape, np.float32)
    return _pixels(images + noise * sigma[:, None, None, None])


def compress(
    images: UInt8Array, quality: Float32Array, random: np.random.Generator | None = None
) -> UInt8Array:
    """What remains of an image in a JPEG file of ``quality`` ``(n,)``, of 100."""
    channels = images.shape[-1]
    if channels not in _COLORS:
        return images
    squeezed = images[..., 0] if channels == 1 else images
    files = [_compressed(image, int(q)) for image, q in zip(squeezed, quality, strict=True)]
    return np.stack(files).reshape(images.shape)


def _compressed(image: UInt8Array, quality: int) -> UInt8Array:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _pixels(values: AnyArray) -> UInt8Array:
    """Rounded, within 0 to 255."""
    rounded: UInt8Array = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return rounded


_Change = Callable[[UInt8Array, Float32Array, np.random.Generator], UInt8Array]
_CHANGES: tuple[tuple[_Change, tuple[float, float]], ...] = (
    (brighten, _GAIN),
    (blur, _BLUR),
    (add_noise, _NOISE),
    (compress, _QUALITY),
)
