"""RandAugment in NumPy: the operations and magnitudes of ``keras.layers.RandAugment``.

Keras' layer draws its operations once for all images of a call, and computes all eleven to use two.
Here every image draws its own, and only those are computed. Equalizing looks at each image by
itself; Keras' layer takes one histogram of all images of a call.

Source: E. D. Cubuk et al., "RandAugment", arXiv:1909.13719.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitsd_runtime.images.augmentation import affine
from vitsd_runtime.types import AnyArray, Float32Array, UInt8Array

_NUM_OPERATIONS = 2
"""For each image, one after the other; they may be the same."""
_GRAY = np.array([0.2989, 0.5870, 0.1140], np.float32)
"""How bright red, green and blue are."""
_VALUES = np.arange(256, dtype=np.float32)


def rand_augment(images: UInt8Array, magnitude: float, random: np.random.Generator) -> UInt8Array:
    """Apply two random operations to each image.

    Args:
        images: ``(n, height, width, channels)``.
        magnitude: in [0, 1).
        random: where all draws come from.

    Returns:
        New images of the same shape.
    """
    images = images.copy()
    for _ in range(_NUM_OPERATIONS):
        drawn = random.integers(len(OPERATIONS), size=len(images))
        for number, operation in enumerate(OPERATIONS):
            rows = np.flatnonzero(drawn == number)
            if rows.size:
                images[rows] = operation(images[rows], Draws(len(rows), magnitude, random))
    return images


@dataclass(frozen=True)
class Draws:
    """Random numbers for ``count`` images."""

    count: int
    magnitude: float
    random: np.random.Generator

    def amount(self) -> Float32Array:
        """Up to the magnitude, float32 ``(count,)``."""
        drawn: Float32Array = self.random.random(self.count, np.float32)
        return drawn * np.float32(self.magnitude)

    def sign(self) -> Float32Array:
        """-1 or 1, float32 ``(count,)``."""
        return self.random.integers(0, 2, self.count).astype(np.float32) * 2 - 1

    def bits(self) -> AnyArray:
        """How many of 8 bits a posterized pixel keeps, int ``(count,)``; few at low magnitudes."""
        most = int(8 * self.magnitude)
        return self.random.integers(1, max(most, 2), self.count)


def shear(images: UInt8Array, x: Float32Array, y: Float32Array) -> UInt8Array:
    """Shift each row by ``x`` times its number, each column by ``y`` times its number."""
    _, height, width, _ = images.shape
    shift = x * np.float32((height - 1) / 2), y * np.float32((width - 1) / 2)
    return _pixels(affine(images, (np.ones_like(x), x, y, np.ones_like(y)), shift))


def translate(images: UInt8Array, down: Float32Array, right: Float32Array) -> UInt8Array:
    """Move by shares of the height and the width."""
    _, height, width, _ = images.shape
    one, zero = np.ones_like(down), np.zeros_like(down)
    return _pixels(affine(images, (one, zero, zero, one), (-right * width, -down * height)))


def rotate(images: UInt8Array, turns: Float32Array) -> UInt8Array:
    """Rotate by shares of a full turn."""
    angle = turns * np.float32(2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    return _pixels(affine(images, (cos, -sin, sin, cos)))


def brighten(images: UInt8Array, share: Float32Array) -> UInt8Array:
    """Add that share of the whole range to all pixels."""
    return _pixels(images + 255 * _each(share))


def fade(images: UInt8Array, share: Float32Array) -> UInt8Array:
    """Move the colors of an RGB image towards gray; images of other channels stay."""
    if images.shape[-1] != 3:
        return images
    gray = (images @ _GRAY)[..., None]
    return _pixels(images + _each(share) * (gray - images))


def raise_contrast(images: UInt8Array, share: Float32Array) -> UInt8Array:
    """Move the pixels away from the mean of their channel."""
    planes = _planes(images)
    mean = planes.mean(axis=-1, keepdims=True, dtype=np.float32)
    return _through(images, (_VALUES - mean) * (1 + share[:, None, None]) + mean)


def sharpen(images: UInt8Array, share: Float32Array) -> UInt8Array:
    """From blurred (0) over unchanged (0.5) to sharpened (1)."""
    padded = np.pad(images.astype(np.int16), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = (box + 4 * padded[:, 1:-1, 1:-1]) / np.float32(13)  # the center counts five times
    return _pixels(images + (1 - 2 * _each(share)) * (smooth - images))


def posterize(images: UInt8Array, bits: AnyArray) -> UInt8Array:
    """Keep the highest ``bits`` of 8 bits."""
    masks = (0xFF << (8 - bits)).astype(np.uint8)
    return images & masks[:, None, None, None]


def solarize(images: UInt8Array, addition: Float32Array, threshold: Float32Array) -> UInt8Array:
    """Add a share of the range, then invert what reaches the threshold, another share."""
    brighter = np.minimum(images + 255 * _each(addition), 255)
    return _pixels(np.where(brighter < 255 * _each(threshold), brighter, 255 - brighter))


def auto_contrast(images: UInt8Array) -> UInt8Array:
    """Stretch each channel to the whole range; flat channels stay."""
    planes = _planes(images)
    low, high = (f(planes, axis=-1, keepdims=True).astype(np.float32) for f in (np.min, np.max))
    stretched = (_VALUES - low) * (255 / np.maximum(high - low, 1))
    return _through(images, np.where(low == high, _VALUES, stretched))


def equalize(images: UInt8Array) -> UInt8Array:
    """Give all values of a channel the same frequency, as far as that goes; flat ones stay."""
    planes = _planes(images)
    count, channels, pixels = planes.shape
    counted = np.bincount(_places(planes).ravel(), minlength=count * channels * 256)
    up_to = counted.reshape(count, channels, 256).cumsum(axis=-1)
    lowest = np.take_along_axis(up_to, planes.min(axis=-1, keepdims=True).astype(np.intp), -1)
    equal = (up_to - lowest) * 255 / np.maximum(pixels - lowest, 1)
    return _through(images, np.where(lowest == pixels, _VALUES, equal))


OPERATIONS: tuple[Callable[[UInt8Array, Draws], UInt8Array], ...] = (
    lambda images, draw: shear(images, *(draw.sign() * [draw.amount(), draw.amount()])),
    lambda images, draw: translate(images, draw.amount(), draw.amount()),
    lambda images, draw: rotate(images, draw.amount()),
    lambda images, draw: brighten(images, draw.amount()),
    lambda images, draw: fade(images, draw.amount()),
    lambda images, draw: raise_contrast(images, draw.amount()),
    lambda images, draw: sharpen(images, draw.amount()),
    lambda images, draw: posterize(images, draw.bits()),
    lambda images, draw: solarize(images, draw.amount(), draw.amount()),
    lambda images, draw: auto_contrast(images),
    lambda images, draw: equalize(images),
)
"""What an image may go through, all with the same probability."""


def _planes(images: UInt8Array) -> UInt8Array:
    """The channels one by one, ``(n, channels, height * width)``."""
    count, height, width, channels = images.shape
    planes = images.reshape(count, height * width, channels).transpose(0, 2, 1)
    return np.ascontiguousarray(planes)  # NumPy is several times slower on every third value


def _places(planes: UInt8Array) -> AnyArray:
    """Where each value stands in a row of tables, one of 256 entries for each plane."""
    count, channels, _ = planes.shape
    return planes + 256 * np.arange(count * channels).reshape(count, channels, 1)


def _through(images: UInt8Array, tables: AnyArray) -> UInt8Array:
    """What tables ``(n, channels, 256)`` make of the values."""
    count, height, width, channels = images.shape
    planes = _pixels(tables).take(_places(_planes(images)))
    planes = planes.reshape(count, channels, height, width)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _each(values: Float32Array) -> Float32Array:
    """One value for each image."""
    return values[:, None, None, None]


def _pixels(values: AnyArray) -> UInt8Array:
    """Rounded to the nearest pixel value."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
