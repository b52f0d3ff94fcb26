"""Train on from a trained model: its architecture, its weights, its normalisation; a new last layer for the new classes."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitsd.config import VitConfig
from vitsd.hub.pretrained import locate
from vitsd.hub.saving import load_model
from vitsd.recipe import TrainingRecipe
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import detect_format, read_spec
from vitsd_runtime.spec import ModelSpec

_NEW = "logits"
"""The layer that the new classes need anew."""


@dataclass(frozen=True)
class Start:
    """A trained model as the beginning of training."""

    path: Path
    spec: ModelSpec
    freeze_backbone: bool = False
    """Train the new layer alone: for very few images, and many times faster."""

    @classmethod
    def load(cls, name_or_path: str | os.PathLike, freeze_backbone: bool = False) -> Start:
        """Of any model that :func:`vitsd.from_pretrained` finds. Raises as that does."""
        path = locate(name_or_path)
        if detect_format(path) != "keras":
            raise UsageError(f"{path} is an exported model; fine-tuning starts from a .keras file.")
        spec = read_spec(path)
        if spec is None:
            raise UsageError(f"{path} carries no vitsd spec, so it can't be fine-tuned.")
        return cls(path, spec, freeze_backbone)

    @property
    def description(self) -> dict:
        """For ``run.json`` and the new model's provenance."""
        return {
            "name": self.spec.name,
            "sha256": self.spec.integrity.sha256 if self.spec.integrity else None,
            "freeze_backbone": self.freeze_backbone,
        }

    def statistics(self, config: VitConfig) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the pixels. Raises UsageError if ``config`` is of images with other channels."""
        if config.input_size[2] != self.spec.input_size[2]:
            raise UsageError(
                f"{self.spec.name} takes images with {self.spec.input_size[2]} channels, the data have "
                f"{config.input_size[2]}."
            )
        return np.asarray(self.spec.mean), np.asarray(self.spec.variance)

    def apply(self, model) -> None:
        """Give ``model`` the weights of all layers but the last, and freeze them if that is wanted."""
        trained, _ = load_model(self.path)
        weights = {weight.path: weight for weight in trained.weights}
        for layer in model.layers:
            if layer.name == _NEW:
                continue
            for weight in layer.weights:
                # Random layers of training hold seeds, which are no weights of the trained model.
                if weight.path in weights:
                    weight.assign(weights[weight.path])
            layer.trainable = not self.freeze_backbone


def recipe_for(spec: ModelSpec, freeze_backbone: bool = False, epochs: int = 20) -> TrainingRecipe:
    """The recipe that the model was trained with, if it is known, for fewer epochs and for fewer images.

    Batches are small, so that a few hundred images still make enough steps. The learning rate is a quarter of the model's
    own, not to lose what was learned; for a frozen body that is not in danger, and a new layer alone has far to go.

    In float32: the lower precisions are fast on the machines that have them, and many times slower on others.
    """
    known = {field.name for field in dataclasses.fields(TrainingRecipe)}
    stored = {name: value for name, value in spec.provenance.recipe.items() if name in known}
    recipe = TrainingRecipe(**stored)
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        batch_size=min(recipe.batch_size, 32),
        learning_rate=0.01 if freeze_backbone else recipe.learning_rate / 4,
        precision="float32",
    )
