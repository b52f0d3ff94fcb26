"""A preset is a name for an architecture and the recipe to train it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from vitsd.config import VitConfig
from vitsd.recipe import TrainingRecipe
from vitsd_runtime.errors import UsageError

NO_OPTIONS = ("input_size", "num_classes", "layer_norm_epsilon")
"""Of an architecture: given by the data, or no choice that anyone has asked for."""
_NAMES = ("vit-edge", "vit-micro", "vit-nano", "vit-small-ds", "vit-gap-ds", "tiny")


@dataclass(frozen=True)
class Preset:
    """An architecture and the recipe to train it."""

    config: VitConfig
    recipe: TrainingRecipe

    def with_options(self, options: Mapping[str, Any]) -> Preset:
        """With other values for fields of config and recipe, but for :data:`NO_OPTIONS`.

        Names of anything else are ignored: a command's options hold more.

        Raises:
            UsageError: the values can't make a model or a recipe.
        """
        if "hidden_dim" in options and "mlp_units" not in options:
            # The last one must equal hidden_dim.
            units = [*self.config.mlp_units[:-1], options["hidden_dim"]]
            options = {**options, "mlp_units": units}
        known = {name: value for name, value in options.items() if name not in NO_OPTIONS}
        return Preset(_replaced(self.config, known), _replaced(self.recipe, known))


_Fields = TypeVar("_Fields", VitConfig, TrainingRecipe)


def _replaced(values: _Fields, options: Mapping[str, Any]) -> _Fields:
    names = {field.name for field in dataclasses.fields(values)} & options.keys()
    return dataclasses.replace(values, **{name: options[name] for name in names})


def list_presets() -> tuple[str, ...]:
    """Names for :func:`get_preset`."""
    return _NAMES


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UsageError: there is none; the message suggests the nearest.
    """
    if name not in _NAMES:
        nearest = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.3)
        hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
        raise UsageError(f"There is no preset {name!r}. {hint}Presets: {', '.join(_NAMES)}.")
    module = import_module(f"vitsd.presets.{name.replace('-', '_')}")
    preset: Preset = module.PRESET
    return preset
