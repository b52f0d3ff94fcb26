"""Fine-tuning: start with a trained model's architecture, weights and normalization.

For other classes the last layer is a new one.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitsd.config import VitConfig
from vitsd.data.statistics import Statistics
from vitsd.hub.pretrained import locate
from vitsd.hub.saving import load_model
from vitsd.model import names
from vitsd.recipe import PRETRAINED_SHARE, TrainingRecipe
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import detect_format, require_spec
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike

if TYPE_CHECKING:
    import keras

_FINE_TUNING_BATCH = 32
"""At most: so a few hundred images still make enough steps."""
_EPOCHS, _FEWEST_STEPS = 20, 150
"""Passes over the images, and optimizer steps, at least."""
_FROZEN_LEARNING_RATE = 0.01


@dataclass(frozen=True)
class PretrainedStart:
    """A trained model that training starts from. Make one with :meth:`load`."""

    path: Path
    """Of the ``.keras`` file."""
    spec: ModelSpec
    freeze_backbone: bool = False
    """Train the last layer alone: for very few images, and many times faster."""
    share: float = 0.0
    """Of its weights in the result, see :meth:`blend`."""

    @classmethod
    def load(
        cls, name_or_path: PathLike, freeze_backbone: bool = False, share: float = 0.0
    ) -> PretrainedStart:
        """Find a model as :func:`vitsd.from_pretrained` does.

        Args:
            name_or_path: of the model.
            freeze_backbone: train the last layer alone.
            share: of its weights in the result, as :data:`PRETRAINED_SHARE` allows.

        Raises:
            UsageError: nothing is found under that name, or it can't be fine-tuned.
            VitsdError: the file can't be downloaded, or is damaged.
        """
        path = locate(name_or_path)
        if detect_format(path) != "keras":
            raise UsageError(
                f"{printable(path)} is an exported model; fine-tuning starts from a .keras file."
            )
        share = PRETRAINED_SHARE.check("pretrained_share", share)
        return cls(path, require_spec(path), freeze_backbone, share)

    @property
    def description(self) -> dict[str, Any]:
        """For ``run.json`` and the new model's provenance."""
        return {
            "name": self.spec.name,
            "sha256": self.spec.integrity.sha256 if self.spec.integrity else None,
            "freeze_backbone": self.freeze_backbone,
            "share": self.share,
        }

    def statistics(self, config: VitConfig) -> tuple[Statistics, Statistics]:
        """Mean and variance of the pixels that the model was trained on, per channel.

        Raises:
            UsageError: ``config`` is for images with other channels.
        """
        if config.input_size[2] != self.spec.input_size[2]:
            raise UsageError(
                f"{self.spec.name} takes images with {self.spec.input_size[2]} channels, the data "
                f"have {config.input_size[2]}."
            )
        return np.asarray(self.spec.mean), np.asarray(self.spec.variance)

    def apply(self, model: keras.Model, class_names: tuple[str, ...]) -> None:
        """Give ``model`` the weights of all layers; of the last one if the classes are the same.

        If requested, all but the last are frozen.

        Raises:
            UsageError, VitsdError: the trained model can't be loaded.
        """
        trained, _ = load_model(self.path)
        weights = {weight.path: weight for weight in trained.weights}
        for layer in model.layers:
            layer.trainable = not self.freeze_backbone or layer.name == names.LOGITS
            if not self._fits(layer, class_names):
                continue
            for weight in layer.weights:
                # Augmentation layers hold seeds, which the trained model does not have.
                if weight.path in weights:
                    weight.assign(weights[weight.path])

    def blend(self, model: keras.Model, class_names: tuple[str, ...]) -> None:
        """Move the weights of the tuned ``model`` back toward the trained one's, by its share.

        What fine-tuning has learned is mostly kept, and what it has cost is mostly regained: both
        models lie in one valley of the loss. The last layer takes part if the classes are the same.

        Source: M. Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv:2109.01903.
        """
        if not self.share:
            return
        trained, _ = load_model(self.path)
        before = {weight.path: np.asarray(weight) for weight in trained.weights}
        for layer in model.layers:
            if not self._fits(layer, class_names):
                continue
            for weight in layer.weights:
                tuned = np.asarray(weight)
                weight.assign(tuned + self.share * (before[weight.path] - tuned))

    def _fits(self, layer: keras.layers.Layer, class_names: tuple[str, ...]) -> bool:
        """Whether this layer's trained weights mean the same in a model of these classes."""
        return layer.name != names.LOGITS or class_names == self.spec.class_names


def epochs_for(images: int, batch_size: int) -> int:
    """Epochs of fine-tuning: 20, or as many more as few images need to make 150 steps.

    Args:
        images: to train on.
        batch_size: of the recipe.
    """
    steps = max(1, math.ceil(images / batch_size))
    return max(_EPOCHS, math.ceil(_FEWEST_STEPS / steps))


def recipe_for(
    spec: ModelSpec, freeze_backbone: bool = False, epochs: int = _EPOCHS
) -> TrainingRecipe:
    """The recipe that a model was trained with, if it is known, adapted to fine-tuning.

    Fewer epochs and smaller batches. A quarter of the original learning rate avoids forgetting
    (where the model was fine-tuned itself, its rate is gentle already); with a frozen backbone a
    higher rate is safe, and a new layer alone needs it. In float32: the lower precisions are fast
    on machines that have them, and many times slower on others. Without class weights and teacher,
    which belong to the data.

    Args:
        spec: of the trained model.
        freeze_backbone: whether the last layer is trained alone.
        epochs: passes over the training images, as by :func:`epochs_for`.

    Raises:
        UsageError: the spec's recipe is unusable.
    """
    known = {field.name for field in dataclasses.fields(TrainingRecipe)}
    stored = {name: value for name, value in spec.provenance.recipe.items() if name in known}
    recipe = TrainingRecipe(**stored)
    gentler = 1 if spec.provenance.fine_tuned_from else 4
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        batch_size=min(recipe.batch_size, _FINE_TUNING_BATCH),
        learning_rate=_FROZEN_LEARNING_RATE if freeze_backbone else recipe.learning_rate / gentler,
        precision="float32",
        class_weights="none",
        teacher="",
    )
