"""The training pipeline's random flip, rotation and zoom in NumPy, for test-time augmentation.

For the same parameters the results equal those of ``keras.layers.RandomFlip``, ``RandomRotation``
and ``RandomZoom`` (TensorFlow backend; bilinear, reflected edges), applied one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import AnyArray, Float32Array


@dataclass(frozen=True)
class AugmentationParams:
    """Random parameters for a batch, each an array of one value per image."""

    flip: AnyArray
    """bool: mirrored left to right."""
    angle: Float32Array
    """Radians, Keras' sign."""
    height_zoom: Float32Array
    """Side of the sampled area relative to the image: above 1 zooms out."""
    width_zoom: Float32Array

    def repeat(self, batch: int) -> AugmentationParams:
        """The parameters of one image for each of ``batch`` images."""
        return AugmentationParams(
            flip=np.repeat(self.flip, batch),
            angle=np.repeat(self.angle, batch),
            height_zoom=np.repeat(self.height_zoom, batch),
            width_zoom=np.repeat(self.width_zoom, batch),
        )


class Augmenter:
    """Random horizontal flip, rotation and zoom.

    Args:
        flip: ``"horizontal"`` or None.
        rotation: largest angle as a fraction of a full turn (``keras.layers.RandomRotation``'s
            factor), in [0, 1].
        zoom: largest zoom, the same factor for height and width, drawn independently, in [0, 1).
        seed: of the generator; the same seed gives the same draws.

    Raises:
        UsageError: a value is out of its range.
    """

    def __init__(
        self,
        flip: str | None = "horizontal",
        rotation: float = 0.0,
        zoom: float = 0.0,
        seed: int = 0,
    ) -> None:
        if flip not in ("horizontal", None):
            raise UsageError(f'flip must be "horizontal" or None; got {flip!r}.')
        if not 0 <= rotation <= 1 or not 0 <= zoom < 1:
            raise UsageError(
                f"rotation must be in [0, 1] and zoom in [0, 1); got {rotation} and {zoom}."
            )
        self.flip, self.rotation, self.zoom = flip, float(rotation), float(zoom)
        self._random = np.random.default_rng(seed)

    @classmethod
    def from_spec(cls, spec: ModelSpec, seed: int = 0) -> Augmenter:
        """With the ranges that the model was trained with."""
        ranges = spec.augmentation
        return cls(ranges.flip, ranges.rotation, ranges.zoom, seed)

    def draw(self, batch: int) -> AugmentationParams:
        """Parameters for ``batch`` images; advances the generator."""

        def uniform(reach: float) -> Float32Array:
            return self._random.uniform(-reach, reach, batch).astype(np.float32)

        return AugmentationParams(
            flip=self._random.random(batch) < 0.5 if self.flip else np.zeros(batch, bool),
            angle=uniform(2 * np.pi * self.rotation),
            height_zoom=1 + uniform(self.zoom),
            width_zoom=1 + uniform(self.zoom),
        )

    def apply(self, images: AnyArray, params: AugmentationParams) -> Float32Array:
        """Transform images ``(batch, height, width, channels)``; float32 out."""
        mirrored = images[:, :, ::-1]
        images = np.where(params.flip[:, None, None, None], mirrored, images).astype(np.float32)
        if params.angle.any():
            cos, sin = np.cos(params.angle), np.sin(params.angle)
            images = affine(images, (cos, -sin, sin, cos))
        if (params.height_zoom != 1).any() or (params.width_zoom != 1).any():
            zeros = np.zeros_like(params.height_zoom)
            images = affine(images, (params.width_zoom, zeros, zeros, params.height_zoom))
        return images

    def __call__(self, images: AnyArray) -> Float32Array:
        """Draw and apply: ``(batch, height, width, channels)`` in, float32 out."""
        return self.apply(images, self.draw(len(images)))

    def batches(
        self, images: AnyArray, labels: AnyArray, batch_size: int, shuffle: bool = True
    ) -> Iterator[tuple[Float32Array, AnyArray]]:
        """One pass over a training set in augmented batches, for pipelines without ``tf.data``.

        Args:
            images: ``(n, height, width, channels)``.
            labels: ``(n, ...)``.
            batch_size: of all batches but the last.
            shuffle: draw a new order; else the images' own.

        Raises:
            UsageError: there are not as many labels as images.
        """
        if len(images) != len(labels):
            raise UsageError(f"{len(images)} images but {len(labels)} labels.")
        count = len(images)
        order = self._random.permutation(count) if shuffle else np.arange(count)
        for start in range(0, count, batch_size):
            chosen = order[start : start + batch_size]
            yield self(images[chosen]), labels[chosen]


def affine(
    images: AnyArray,
    matrix: tuple[AnyArray, AnyArray, AnyArray, AnyArray],
    shift: tuple[AnyArray, AnyArray] | None = None,
) -> Float32Array:
    """Sample at ``(xx x + xy y, yx x + yy y)`` relative to the image's center; bilinear.

    Args:
        images: ``(n, height, width, channels)``.
        matrix: xx, xy, yx and yy, each ``(n,)``.
        shift: added to x and y, in pixels, each ``(n,)``.
    """
    batch, height, width, channels = images.shape
    center_x, center_y = np.float32((width - 1) / 2), np.float32((height - 1) / 2)
    x, y = (np.arange(n, dtype=np.float32) for n in (width, height))
    x, y = x - center_x, (y - center_y)[:, None]
    none = np.zeros(batch)
    xx, xy, yx, yy, dx, dy = (
        value.astype(np.float32)[:, None, None] for value in (*matrix, *(shift or (none, none)))
    )
    source_x = _reflect(xx * x + xy * y + (dx + center_x), width)
    source_y = _reflect(yx * x + yy * y + (dy + center_y), height)
    left, top = source_x.astype(np.intp), source_y.astype(np.intp)
    weight_x, weight_y = (source - np.floor(source) for source in (source_x, source_y))
    here = (np.arange(batch)[:, None, None] * height + top) * width + left
    right, below = left < width - 1, width * (top < height - 1)

    def between(first: AnyArray, second: AnyArray, weight: AnyArray) -> AnyArray:
        return first + (second - first) * weight

    sampled = np.empty(images.shape, np.float32)
    for channel in range(channels):  # one by one: NumPy is slow where it repeats short rows
        plane = images[..., channel].ravel().astype(np.float32)
        upper, lower = (
            between(plane.take(row), plane.take(row + right), weight_x)
            for row in (here, here + below)
        )
        sampled[..., channel] = between(upper, lower, weight_y)
    return sampled


def _reflect(position: Any, size: int) -> Any:
    """Coordinates folded into the image: ``dcba|abcd|dcba``."""
    position = position - 2 * size * np.floor(position / np.float32(2 * size))
    # Between the last pixel's center and its mirror image, and before the first, the edge pixel
    # itself is meant.
    return np.clip(np.minimum(position, 2 * size - 1 - position), 0, size - 1)
