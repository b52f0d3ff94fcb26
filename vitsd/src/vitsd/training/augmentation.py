"""Augmentation in training, made of Keras' own layers.

Two places: flip, rotation and zoom are part of the model (they act on the enlarged image, as in the published recipe, and
run in the training step of any backend); what changes labels too, and what acts on the raw pixels, is done on the batches.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from vitsd.recipe import TrainingRecipe
from vitsd_runtime.spec import AugmentationRanges


def model_augmentation(recipe: TrainingRecipe) -> list[layers.Layer]:
    """Layers for :func:`vitsd.build_vit`'s ``augmentation``: those that the recipe turns on."""
    options = {"data_format": "channels_last", "dtype": "float32"}
    chosen: list[layers.Layer] = []
    if recipe.flip:
        chosen.append(
            layers.RandomFlip("horizontal", seed=recipe.seed, name="random_flip", **options)
        )
    if recipe.rotation:
        chosen.append(
            layers.RandomRotation(
                recipe.rotation, seed=recipe.seed + 1, name="random_rotation", **options
            )
        )
    if recipe.zoom:
        zoom = (recipe.zoom, recipe.zoom)
        chosen.append(layers.RandomZoom(*zoom, seed=recipe.seed + 2, name="random_zoom", **options))
    if keras.backend.backend() == "jax":
        # Keras marks these layers as unfit for compilation because of TensorFlow's XLA; in JAX they compile, and without
        # this the whole training step would run op by op.
        for layer in chosen:
            layer.supports_jit = True
    return chosen


def augmentation_ranges(recipe: TrainingRecipe) -> AugmentationRanges:
    """What ``ModelSpec.augmentation`` says of the recipe."""
    flip = "horizontal" if recipe.flip else None
    return AugmentationRanges(flip, recipe.rotation, recipe.zoom)


class BatchAugmentation:
    """Random crops, RandAugment, MixUp and CutMix on a batch of raw pixels and one-hot labels.

    Every batch gets its own seed, so that a resumed run sees what an uninterrupted one would have seen.
    """

    def __init__(self, recipe: TrainingRecipe):
        options = {"data_format": "channels_last", "dtype": "float32"}
        self._crop_padding = recipe.crop_padding
        self._rand_augment = None
        if recipe.rand_augment:
            self._rand_augment = layers.RandAugment(
                value_range=(0, 255), factor=recipe.rand_augment, **options
            )
        self._mixers = []
        if recipe.mixup_alpha:
            self._mixers.append(layers.MixUp(alpha=recipe.mixup_alpha, **options))
        if recipe.cutmix_alpha:
            self._mixers.append(
                layers.CutMix(factor=(recipe.cutmix_alpha, recipe.cutmix_alpha), **options)
            )

    @property
    def active(self) -> bool:
        return bool(self._crop_padding or self._rand_augment or self._mixers)

    def __call__(self, images: np.ndarray, labels: np.ndarray, random: np.random.Generator):
        """uint8 or float32 images 0-255 and float32 one-hot labels; the same shapes out."""
        if self._crop_padding:
            images = random_crop(images, self._crop_padding, random)
        if self._rand_augment:
            # RandAugment draws its operations once per call: small groups keep a batch varied.
            groups = np.array_split(images, max(1, len(images) // 16))
            images = np.concatenate(
                [self._run(self._rand_augment, group, random) for group in groups]
            )
        if self._mixers:
            mixer = self._mixers[random.integers(len(self._mixers))]
            mixed = self._run(
                mixer, {"images": images.astype(np.float32), "labels": labels}, random
            )
            images, labels = mixed["images"], mixed["labels"]
        return images, labels

    @staticmethod
    def _run(layer, inputs, random):
        layer.generator.state.assign(random.integers(0, 2**31, 2))
        return keras.tree.map_structure(ops.convert_to_numpy, layer(inputs, training=True))


def random_crop(images: np.ndarray, padding: int, random: np.random.Generator) -> np.ndarray:
    """Shift every image by up to ``padding`` pixels, black where nothing was.

    Not ``keras.layers.RandomCrop``: that crops all images of a batch at the same place.
    """
    batch, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    top, left = random.integers(0, 2 * padding + 1, (2, batch))
    rows = top[:, None, None] + np.arange(height)[:, None]
    columns = left[:, None, None] + np.arange(width)
    return padded[np.arange(batch)[:, None, None], rows, columns]
