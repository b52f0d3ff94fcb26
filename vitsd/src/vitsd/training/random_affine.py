"""Flip, rotation and zoom of a whole batch at once, in the training step of any backend.

Keras' own layers make the same images, but its PyTorch backend transforms them one by one, which
takes longer than all the rest of a training step.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

from vitsd.model.layers import Tensor


@keras.saving.register_keras_serializable(package="vitsd")
class RandomAffine(layers.Layer):
    """Mirror, rotate and zoom each image at random; at inference images pass unchanged.

    For the same draws the result equals that of ``keras.layers.RandomFlip("horizontal")``,
    ``RandomRotation(rotation)`` and ``RandomZoom(zoom, zoom)``, one after the other (bilinear,
    reflected edges), and that of :class:`vitsd_runtime.Augmenter`.

    Args:
        flip: mirror half of the images, left to right.
        rotation: largest angle to either side, a fraction of a full turn.
        zoom: largest change of height and of width, each a fraction.
        seed: of the draws.
        **options: of any layer.
    """

    def __init__(self, flip: bool, rotation: float, zoom: float, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.flip, self.rotation, self.zoom, self.seed = flip, rotation, zoom, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        """Images ``(batch, height, width, channels)`` in and out."""
        if not training:
            return images
        count = ops.shape(images)[0]
        side = ops.where(self._draw(count, float(self.flip)) < 0, -1.0, 1.0)
        if self.rotation:
            images = rotate(images, side, self._draw(count, 2 * math.pi * self.rotation))
        elif self.flip:
            images = ops.where(side[:, None, None, None] < 0, ops.flip(images, 2), images)
        if self.zoom:
            images = zoom(
                images, 1 + self._draw(count, self.zoom), 1 + self._draw(count, self.zoom)
            )
        return images

    def _draw(self, count: Any, reach: float) -> Tensor:
        return keras.random.uniform((count,), -reach, reach, seed=self.generator)

    def get_config(self) -> dict[str, Any]:
        """What makes the same layer."""
        options = {"flip": self.flip, "rotation": self.rotation, "zoom": self.zoom}
        return {**super().get_config(), **options, "seed": self.seed}


def rotate(images: Tensor, side: Tensor, angle: Tensor) -> Tensor:
    """Mirror images, then turn them around their centers.

    Args:
        images: ``(n, height, width, channels)``.
        side: -1 to mirror left and right, else 1, ``(n,)``.
        angle: counterclockwise, in radians, ``(n,)``.
    """
    height, width = images.shape[1:3]
    cos, sin, side = (value[:, None, None] for value in (ops.cos(angle), ops.sin(angle), side))
    x, y = _centered(width)[None, None, :], _centered(height)[None, :, None]
    column, across = _place(side * (cos * x - sin * y), width)
    row, down = _place(sin * x + cos * y, height)
    image = ops.cumsum(ops.ones_like(angle, dtype="int32"))[:, None, None] - 1
    corners = ops.take(_with_neighbors(images), (image * height + row) * width + column, axis=0)
    upper, upper_next, lower, lower_next = ops.split(corners, 4, axis=-1)
    above = upper + across * (upper_next - upper)
    return above + down * (lower + across * (lower_next - lower) - above)


def _with_neighbors(images: Tensor) -> Tensor:
    """Each pixel, the next one, and those two of the row below: all that one place needs.

    So a single index finds them all. Behind the last pixels follow others; they count for nothing.

    Args:
        images: ``(n, height, width, channels)``.

    Returns:
        ``(n * height * width, 4 * channels)``.
    """
    width, channels = images.shape[2:]
    pixels = ops.reshape(images, (-1, channels))
    steps = (0, 1, width, width + 1)
    return ops.concatenate([ops.roll(pixels, -step, axis=0) for step in steps], axis=-1)


def zoom(images: Tensor, height_zoom: Tensor, width_zoom: Tensor) -> Tensor:
    """Sample images at places ``height_zoom`` and ``width_zoom`` times as far from their centers.

    Each direction is a product with a matrix that holds what each pixel counts for.

    Args:
        images: ``(n, height, width, channels)``.
        height_zoom: ``(n,)``; values below 1 enlarge.
        width_zoom: likewise.
    """
    images = _stretch(images, height_zoom)
    return ops.swapaxes(_stretch(ops.swapaxes(images, 1, 2), width_zoom), 1, 2)


def _stretch(images: Tensor, factor: Tensor) -> Tensor:
    size, others, channels = images.shape[1:]
    places = ops.arange(size, dtype="float32")
    source = _reflect(factor[:, None] * _centered(size), size)
    shares = ops.relu(1 - ops.abs(source[:, :, None] - places))
    stretched = ops.matmul(shares, ops.reshape(images, (-1, size, others * channels)))
    return ops.reshape(stretched, (-1, size, others, channels))


def _centered(size: int) -> Tensor:
    """Where pixels lie, from the center of an image."""
    return ops.arange(size, dtype="float32") - (size - 1) / 2


def _place(offset: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The pixel before each place, and how far behind it that is, for each channel."""
    position = _reflect(offset, size)
    pixel = ops.floor(position)
    return ops.cast(pixel, "int32"), (position - pixel)[..., None]


def _reflect(offset: Tensor, size: int) -> Tensor:
    """Places from the center, folded into the image: ``dcba|abcd|dcba``."""
    position = offset + (size - 1) / 2
    position = position - 2 * size * ops.floor(position / (2 * size))
    # Between the last pixel's center and its mirror image, and before the first, the edge pixel
    # itself is meant.
    return ops.clip(ops.minimum(position, 2 * size - 1 - position), 0, size - 1)
