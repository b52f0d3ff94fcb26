"""A preset is a name for an architecture and the recipe to train it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module

from vitsd.config import VitConfig
from vitsd.recipe import TrainingRecipe
from vitsd_runtime.errors import UsageError

_NAMES = ("vit-edge", "vit-micro", "vit-nano", "vit-small-ds", "vit-gap-ds", "tiny")


@dataclass(frozen=True)
class Preset:
    """An architecture and the recipe to train it."""

    config: VitConfig
    recipe: TrainingRecipe


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
