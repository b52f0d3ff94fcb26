"""Augmentation in training, made of Keras' own layers.

It happens in two places. Flip, rotation and zoom are part of the model: they act on the enlarged
image, as in the published recipe, and run in the training step of any backend. What changes labels
too, and what acts on the raw pixels, is done to the batches.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from vitsd.recipe import TrainingRecipe
from vitsd_runtime.spec import AugmentationRanges
from vitsd_runtime.types import AnyArray

_RAND_AUGMENT_GROUP = 16
"""RandAugment draws its operations once per call: small groups keep a batch varied."""
_LAYER_OPTIONS = {"data_format": "channels_last", "dtype": "float32"}


def model_augmentation(recipe: TrainingRecipe) -> list[layers.Layer]:
    """Layers for :func:`vitsd.build_vit`'s ``augmentation``: those that the recipe turns on."""

    def seeded(offset: int, name: str) -> dict[str, Any]:
        return {"seed": recipe.seed + offset, "name": name, **_LAYER_OPTIONS}

    chosen: list[layers.Layer] = []
    if recipe.flip:
        chosen.append(layers.RandomFlip("horizontal", **seeded(0, "random_flip")))
    if recipe.rotation:
        chosen.append(layers.RandomRotation(recipe.rotation, **seeded(1, "random_rotation")))
    if recipe.zoom:
        chosen.append(layers.RandomZoom(recipe.zoom, recipe.zoom, **seeded(2, "random_zoom")))
    if keras.backend.backend() == "jax":
        # Keras marks these layers as unfit for compilation because of TensorFlow's XLA; in JAX
        # they compile, and otherwise the whole training step would run op by op.
        for layer in chosen:
            layer.supports_jit = True
    return chosen


def augmentation_ranges(recipe: TrainingRecipe) -> AugmentationRanges:
    """What ``ModelSpec.augmentation`` says of the recipe."""
    flip = "horizontal" if recipe.flip else None
    return AugmentationRanges(flip, recipe.rotation, recipe.zoom)


class BatchAugmentation:
    """Random crops, RandAugment, MixUp and CutMix on a batch of raw pixels and one-hot labels.

    All draws come from the generator that a call is given.
    """

    def __init__(self, recipe: TrainingRecipe) -> None:
        self._crop_padding = recipe.crop_padding
        self._rand_augment = None
        if recipe.rand_augment:
            self._rand_augment = layers.RandAugment(
                value_range=(0, 255), factor=recipe.rand_augment, **_LAYER_OPTIONS
            )
        self._mixers = []
        if recipe.mixup_alpha:
            self._mixers.append(layers.MixUp(alpha=recipe.mixup_alpha, **_LAYER_OPTIONS))
        if recipe.cutmix_alpha:
            factor = (recipe.cutmix_alpha, recipe.cutmix_alpha)
            self._mixers.append(layers.CutMix(factor=factor, **_LAYER_OPTIONS))

    def __call__(
        self, images: AnyArray, labels: AnyArray, random: np.random.Generator
    ) -> tuple[AnyArray, AnyArray]:
        """Augment one batch.

        Args:
            images: uint8 or float32 ``(n, height, width, channels)``, 0-255.
            labels: float32 one-hot ``(n, classes)``.
            random: where all draws come from.

        Returns:
            Images and labels of the same shapes; images are float32 where a layer changed them.
        """
        if self._crop_padding:
            images = random_crop(images, self._crop_padding, random)
        if self._rand_augment is not None:
            groups = np.array_split(images, max(1, len(images) // _RAND_AUGMENT_GROUP))
            changed = [_apply(self._rand_augment, group, random) for group in groups]
            images = np.concatenate(changed)
        if self._mixers:
            mixer = self._mixers[random.integers(len(self._mixers))]
            batch = {"images": images.astype(np.float32), "labels": labels}
            mixed = _apply(mixer, batch, random)
            images, labels = mixed["images"], mixed["labels"]
        return images, labels


def _apply(layer: layers.Layer, inputs: Any, random: np.random.Generator) -> Any:
    layer.generator.state.assign(random.integers(0, 2**31, 2))
    return keras.tree.map_structure(ops.convert_to_numpy, layer(inputs, training=True))


def random_crop(images: AnyArray, padding: int, random: np.random.Generator) -> AnyArray:
    """Shift every image by up to ``padding`` pixels, black where nothing was.

    Not ``keras.layers.RandomCrop``: that crops all images of a batch at the same place.

    Args:
        images: ``(n, height, width, channels)``.
        padding: largest shift in each direction, in pixels.
        random: where the shifts are drawn from.
    """
    batch, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    top, left = random.integers(0, 2 * padding + 1, (2, batch))
    rows = top[:, None, None] + np.arange(height)[:, None]
    columns = left[:, None, None] + np.arange(width)
    crops: AnyArray = padded[np.arange(batch)[:, None, None], rows, columns]
    return crops
