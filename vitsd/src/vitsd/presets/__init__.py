"""Presets: each module here holds one, its expected result and cost in its docstring."""

from __future__ import annotations

import difflib
from importlib import import_module

from vitsd.recipe import Preset
from vitsd_runtime.errors import UsageError

_NAMES = ("vit-edge", "vit-small-ds", "vit-gap-ds", "tiny")


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
    return import_module(f"vitsd.presets.{name.replace('-', '_')}").PRESET
