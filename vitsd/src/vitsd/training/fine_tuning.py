"""Fine-tuning: a trained model's architecture, weights and normalization, and a new last layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitsd.config import VitConfig
from vitsd.data.statistics import Statistics
from vitsd.hub.pretrained import locate
from vitsd.hub.saving import load_model
from vitsd.model import names
from vitsd.recipe import TrainingRecipe
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import detect_format, require_spec
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike

if TYPE_CHECKING:
    import keras

_FINE_TUNING_BATCH = 32
"""At most: so a few hundred images still make enough steps."""
_FROZEN_LEARNING_RATE = 0.01


@dataclass(frozen=True)
class PretrainedStart:
    """A trained model that training starts from. Make one with :meth:`load`."""

    path: Path
    """Of the ``.keras`` file."""
    spec: ModelSpec
    freeze_backbone: bool = False
    """Train the new last layer alone: for very few images, and many times faster."""

    @classmethod
    def load(cls, name_or_path: PathLike, freeze_backbone: bool = False) -> PretrainedStart:
        """Find a model as :func:`vitsd.from_pretrained` does.

        Raises:
            UsageError: nothing is found under that name, or it can't be fine-tuned.
            VitsdError: the file can't be downloaded, or is damaged.
        """
        path = locate(name_or_path)
        if detect_format(path) != "keras":
            raise UsageError(
                f"{printable(path)} is an exported model; fine-tuning starts from a .keras file."
            )
        return cls(path, require_spec(path), freeze_backbone)

    @property
    def description(self) -> dict[str, Any]:
        """For ``run.json`` and the new model's provenance."""
        return {
            "name": self.spec.name,
            "sha256": self.spec.integrity.sha256 if self.spec.integrity else None,
            "freeze_backbone": self.freeze_backbone,
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

    def apply(self, model: keras.Model) -> None:
        """Give ``model`` the weights of all layers but the last; freeze them if requested.

        Raises:
            UsageError, VitsdError: the trained model can't be loaded.
        """
        trained, _ = load_model(self.path)
        weights = {weight.path: weight for weight in trained.weights}
        for layer in model.layers:
            # The last layer starts anew: it belongs to the classes.
            if layer.name == names.LOGITS:
                continue
            for weight in layer.weights:
                # Augmentation layers hold seeds, which the trained model does not have.
                if weight.path in weights:
                    weight.assign(weights[weight.path])
            layer.trainable = not self.freeze_backbone


def recipe_for(spec: ModelSpec, freeze_backbone: bool = False, epochs: int = 20) -> TrainingRecipe:
    """The recipe that a model was trained with, if it is known, adapted to fine-tuning.

    Fewer epochs and smaller batches. A quarter of the original learning rate avoids forgetting;
    with a frozen backbone a higher rate is safe, and a new layer alone needs it. In float32: the
    lower precisions are fast on machines that have them, and many times slower on others. Without
    class weights, which belong to the data.

    Args:
        spec: of the trained model.
        freeze_backbone: whether the new last layer is trained alone.
        epochs: passes over the training images.

    Raises:
        UsageError: the spec's recipe is unusable.
    """
    known = {field.name for field in dataclasses.fields(TrainingRecipe)}
    stored = {name: value for name, value in spec.provenance.recipe.items() if name in known}
    recipe = TrainingRecipe(**stored)
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        batch_size=min(recipe.batch_size, _FINE_TUNING_BATCH),
        learning_rate=_FROZEN_LEARNING_RATE if freeze_backbone else recipe.learning_rate / 4,
        precision="float32",
        class_weights="none",
    )
