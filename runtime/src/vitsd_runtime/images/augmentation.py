"""The training pipeline's random flip, rotation and zoom in NumPy, for test-time augmentation and TF-free pipelines.

For the same drawn parameters the results equal those of ``keras.layers.RandomFlip``, ``RandomRotation`` and
``RandomZoom`` (TensorFlow backend; bilinear, reflected edges), applied one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vitsd_runtime.errors import UsageError


@dataclass(frozen=True)
class Draw:
    """Random parameters for a batch, each an array of one value per image."""

    flip: np.ndarray
    """bool: mirrored left to right."""
    angle: np.ndarray
    """Radians, float32, Keras' sign."""
    height_zoom: np.ndarray
    """Side of the sampled area relative to the image: above 1 zooms out. float32."""
    width_zoom: np.ndarray


class Augmenter:
    """Random horizontal flip, rotation and zoom.

    Args:
        flip: ``"horizontal"`` or None.
        rotation: largest angle as a fraction of a full turn (``keras.layers.RandomRotation``'s factor).
        zoom: largest zoom, the same factor for height and width, drawn independently.
        seed: of the generator; the same seed gives the same draws.
    """

    def __init__(
        self,
        flip: str | None = "horizontal",
        rotation: float = 0.0,
        zoom: float = 0.0,
        seed: int = 0,
    ):
        if flip not in ("horizontal", None):
            raise UsageError(f'flip must be "horizontal" or None; got {flip!r}.')
        if not 0 <= rotation <= 1 or not 0 <= zoom < 1:
            raise UsageError(
                f"rotation must be in [0, 1] and zoom in [0, 1); got {rotation} and {zoom}."
            )
        self.flip, self.rotation, self.zoom = flip, float(rotation), float(zoom)
        self._random = np.random.default_rng(seed)

    @classmethod
    def from_spec(cls, spec, seed: int = 0) -> Augmenter:
        """With the ranges that the model was trained with."""
        ranges = spec.augmentation
        return cls(ranges.get("flip"), ranges.get("rotation", 0.0), ranges.get("zoom", 0.0), seed)

    def draw(self, batch: int) -> Draw:
        """Parameters for ``batch`` images; advances the generator."""

        def uniform(reach):
            return self._random.uniform(-reach, reach, batch).astype(np.float32)

        return Draw(
            flip=self._random.random(batch) < 0.5 if self.flip else np.zeros(batch, bool),
            angle=uniform(2 * np.pi * self.rotation),
            height_zoom=1 + uniform(self.zoom),
            width_zoom=1 + uniform(self.zoom),
        )

    def apply(self, images: np.ndarray, draw: Draw) -> np.ndarray:
        """Transform ``(batch, height, width, channels)`` images; float32 out."""
        images = np.where(draw.flip[:, None, None, None], images[:, :, ::-1], images).astype(
            np.float32
        )
        if draw.angle.any():
            cos, sin = np.cos(draw.angle), np.sin(draw.angle)
            images = _affine(images, cos, -sin, sin, cos)
        if (draw.height_zoom != 1).any() or (draw.width_zoom != 1).any():
            zeros = np.zeros_like(draw.height_zoom)
            images = _affine(images, draw.width_zoom, zeros, zeros, draw.height_zoom)
        return images

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Draw and apply: ``(batch, height, width, channels)`` in, float32 out."""
        return self.apply(images, self.draw(len(images)))

    def batches(
        self, images, labels, batch_size: int, shuffle: bool = True
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One pass over ``images`` and ``labels`` in augmented batches, for pipelines without ``tf.data``."""
        if len(images) != len(labels):
            raise UsageError(f"{len(images)} images but {len(labels)} labels.")
        order = self._random.permutation(len(images)) if shuffle else np.arange(len(images))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield self(images[chosen]), labels[chosen]


def _affine(images, xx, xy, yx, yy):
    """Sample at ``(xx x + xy y, yx x + yy y)`` relative to the image's centre; bilinear, reflected at the edges."""
    batch, height, width, _ = images.shape
    y = np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)
    x = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)
    xx, xy, yx, yy = (value.astype(np.float32)[:, None, None] for value in (xx, xy, yx, yy))
    source_x = _reflect(xx * x + xy * y[:, None] + np.float32((width - 1) / 2), width)
    source_y = _reflect(yx * x + yy * y[:, None] + np.float32((height - 1) / 2), height)
    left, top = np.floor(source_x).astype(np.intp), np.floor(source_y).astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    weight_x, weight_y = (
        (p - low).astype(np.float32)[..., None] for p, low in ((source_x, left), (source_y, top))
    )
    image = np.arange(batch)[:, None, None]
    upper = images[image, top, left] * (1 - weight_x) + images[image, top, right] * weight_x
    lower = images[image, bottom, left] * (1 - weight_x) + images[image, bottom, right] * weight_x
    return upper * (1 - weight_y) + lower * weight_y


def _reflect(position, size: int):
    """Coordinates folded into the image: ``dcba|abcd|dcba``."""
    position = np.mod(position, 2 * size)
    position = np.where(position >= size, 2 * size - 1 - position, position)
    # Between the last pixel's centre and its mirror image, and before the first, the edge pixel itself is meant.
    return np.clip(position, 0, size - 1)
