"""Resizing as matrix products: one matrix per axis."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vitsd_runtime.types import Float32Array, UInt8Array


@lru_cache(maxsize=64)
def resize_matrix(size: int, new_size: int) -> Float32Array:
    """Bilinear interpolation of one axis: ``new = matrix @ old``.

    Half-pixel centers, edges clamped, no antialiasing, as
    ``keras.layers.Resizing(interpolation="bilinear")``.

    Returns:
        float32 ``(new_size, size)``, read-only.
    """
    return _interpolation(size, new_size, 0.0, float(size), support=1.0)


@lru_cache(maxsize=64)
def antialiased_resize_matrix(size: int, new_size: int, start: float, stop: float) -> Float32Array:
    """Like :func:`resize_matrix`, for the part of the axis from ``start`` to ``stop``.

    When shrinking, the triangle filter widens with the scale, as in ``PIL.Image.resize(box=...)``.
    """
    return _interpolation(size, new_size, start, stop, support=max(1.0, (stop - start) / new_size))


def resize_antialiased(
    image: UInt8Array, height: int, width: int, box: tuple[float, float, float, float]
) -> UInt8Array:
    """Bring part of an image to ``height`` x ``width``.

    Args:
        image: uint8 ``(old height, old width, channels)``.
        height: of the result.
        width: of the result.
        box: left, top, right and bottom of the part, in pixels.

    Returns:
        uint8 ``(height, width, channels)``.
    """
    old_height, old_width, channels = image.shape
    left, top, right, bottom = box
    rows = antialiased_resize_matrix(old_height, height, top, bottom)
    columns = antialiased_resize_matrix(old_width, width, left, right)
    narrow = rows @ image.reshape(old_height, old_width * channels).astype(np.float32)
    resized = columns @ narrow.reshape(height, old_width, channels)
    rounded: UInt8Array = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    return rounded


def center_crop(
    height: int, width: int, new_height: int, new_width: int
) -> tuple[float, float, float, float]:
    """The largest central part with the aspect ratio ``new_width : new_height``.

    Returns:
        Left, top, right and bottom in pixels.
    """
    scale = min(height / new_height, width / new_width)
    crop_height, crop_width = new_height * scale, new_width * scale
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def _interpolation(
    size: int, new_size: int, start: float, stop: float, support: float
) -> Float32Array:
    pixels = np.arange(size) + 0.5
    centers = start + (np.arange(new_size) + 0.5) * (stop - start) / new_size
    # Positions beyond the outermost pixel centers take that pixel's value.
    if support == 1.0:
        centers = np.clip(centers, pixels[0], pixels[-1])
    weights = np.maximum(0.0, 1.0 - np.abs(centers[:, None] - pixels) / support)
    matrix: Float32Array = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)  # it is shared through the cache
    return matrix
