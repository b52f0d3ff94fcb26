"""Augmentation in training.

It happens in two places. Flip, rotation and zoom are a layer of the model: they act on the enlarged
image, as in the published recipe, in the training step of any backend.
What changes labels too, and what acts on the raw pixels, is done to the batches, in NumPy: it takes
microseconds an image, and batches stay bytes, which reach an accelerator four times sooner than
floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from vitsd.recipe import TrainingRecipe
from vitsd.training.camera import as_by_camera
from vitsd.training.rand_augment import rand_augment
from vitsd_runtime.spec import AugmentationRanges
from vitsd_runtime.types import AnyArray, Float32Array, UInt8Array

if TYPE_CHECKING:
    from keras import layers


def model_augmentation(recipe: TrainingRecipe) -> list[layers.Layer]:
    """Layers for :func:`vitsd.build_vit`'s ``augmentation``: none if the recipe asks for none."""
    flip, rotation, zoom = recipe.flip, recipe.rotation, recipe.zoom
    if not (flip or rotation or zoom):
        return []
    # Processes that only augment batches import this module too: without Keras they start soon.
    from vitsd.training.random_affine import RandomAffine

    return [RandomAffine(flip, rotation, zoom, recipe.seed, dtype="float32", name="random_affine")]


def augmentation_ranges(recipe: TrainingRecipe) -> AugmentationRanges:
    """What ``ModelSpec.augmentation`` says of the recipe."""
    flip = "horizontal" if recipe.flip else None
    return AugmentationRanges(flip, recipe.rotation, recipe.zoom)


_Change = Callable[[UInt8Array, Any, np.random.Generator], UInt8Array]
"""From images, how much, and where all draws come from."""


class BatchAugmentation:
    """Random crops, RandAugment, a camera's faults, MixUp and CutMix on raw pixels and labels.

    All draws come from the generator that a call is given.
    """

    def __init__(self, recipe: TrainingRecipe) -> None:
        changes: tuple[tuple[_Change, float], ...] = (
            (random_crop, recipe.crop_padding),
            (rand_augment, recipe.rand_augment),
            (as_by_camera, recipe.camera),
        )
        self._changes = [(change, amount) for change, amount in changes if amount]
        alphas = ((mix_up, recipe.mixup_alpha), (cut_mix, recipe.cutmix_alpha))
        self._mixers = [(mixer, alpha) for mixer, alpha in alphas if alpha]

    @property
    def changes_nothing(self) -> bool:
        """Whether the recipe asks for none of these."""
        return not (self._changes or self._mixers)

    def __call__(
        self, images: UInt8Array, labels: Float32Array, random: np.random.Generator
    ) -> tuple[UInt8Array, Float32Array]:
        """Augment one batch.

        Args:
            images: ``(n, height, width, channels)``.
            labels: one-hot ``(n, classes)``.
            random: where all draws come from.

        Returns:
            Images and labels of the same shapes.
        """
        for change, amount in self._changes:
            images = change(images, amount, random)
        if self._mixers:
            mixer, alpha = self._mixers[random.integers(len(self._mixers))]
            images, labels = mixer(images, labels, alpha, random)
        return images, labels


def augmented(
    augment: BatchAugmentation, images: UInt8Array, labels: Float32Array, seed: tuple[int, ...]
) -> tuple[UInt8Array, Float32Array]:
    """One batch, all of whose draws follow from ``seed``."""
    return augment(images, labels, np.random.default_rng(seed))


def random_crop(images: UInt8Array, padding: int, random: np.random.Generator) -> UInt8Array:
    """Shift every image by up to ``padding`` pixels, black where nothing was.

    Not ``keras.layers.RandomCrop``: that crops all images of a batch at the same place.

    Args:
        images: ``(n, height, width, channels)``.
        padding: largest shift in each direction, in pixels.
        random: where the shifts are drawn from.
    """
    batch, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # A row of pixels is a row of bytes, which NumPy copies at once.
    rows = padded.reshape(batch, height + 2 * padding, -1)
    windows = sliding_window_view(sliding_window_view(rows, height, 1), width * channels, 2)
    top, left = random.integers(0, 2 * padding + 1, (2, batch))
    crops: UInt8Array = windows[np.arange(batch), top, left * channels]
    return crops.reshape(images.shape)


def mix_up(
    images: UInt8Array, labels: Float32Array, alpha: float, random: np.random.Generator
) -> tuple[UInt8Array, Float32Array]:
    """Blend each image with another one of the batch, and their labels likewise.

    Source: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.

    Args:
        images: ``(n, height, width, channels)``.
        labels: ``(n, classes)``.
        alpha: the own share is drawn from Beta(alpha, alpha).
        random: where all draws come from.
    """
    other = random.permutation(len(images))
    # In steps of 1/256, so that bytes are blended in 16 bits: floats take ten times as long.
    own = np.rint(256 * random.beta(alpha, alpha, len(images))).astype(np.uint16)
    blended = images * own[:, None, None, None]
    blended += images[other] * (256 - own)[:, None, None, None]
    blended += 128  # to round
    blended >>= 8
    return blended.astype(np.uint8), _blend_labels(labels, other, own / 256)


def cut_mix(
    images: UInt8Array, labels: Float32Array, alpha: float, random: np.random.Generator
) -> tuple[UInt8Array, Float32Array]:
    """Replace a rectangle of each image by that of another one; labels count by their areas.

    Source: S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", arXiv:1905.04899.

    Args:
        images: ``(n, height, width, channels)``.
        labels: ``(n, classes)``.
        alpha: the own share of the area is drawn from Beta(alpha, alpha).
        random: where all draws come from.
    """
    batch, height, width, channels = images.shape
    other = random.permutation(batch)
    side = np.sqrt(1 - random.beta(alpha, alpha, batch))
    rows, columns = (_random_range(side, length, random) for length in (height, width))
    own = 1 - rows.mean(axis=1) * columns.mean(axis=1)
    # One entry a byte: NumPy is slow where it repeats short rows.
    inside = rows[:, :, None] & np.repeat(columns, channels, axis=1)[:, None]
    mixed = np.where(inside.reshape(images.shape), images[other], images)
    return mixed, _blend_labels(labels, other, own)


def _random_range(share: AnyArray, length: int, random: np.random.Generator) -> AnyArray:
    """True in that share of ``length`` places in a row, for each of n shares: ``(n, length)``."""
    size = np.rint(share * length).astype(np.int64)
    start = random.integers(0, length - size + 1)
    place = np.arange(length) - start[:, None]
    chosen: AnyArray = (place >= 0) & (place < size[:, None])
    return chosen


def _blend_labels(labels: Float32Array, other: AnyArray, own: AnyArray) -> Float32Array:
    share: Float32Array = own.astype(np.float32)[:, None]
    blended: Float32Array = labels * share + labels[other] * (1 - share)
    return blended
