"""Presets: each module here holds one, its expected result and cost in its docstring."""

from vitsd.presets.preset import NO_OPTIONS, Preset, get_preset, list_presets

__all__ = ["NO_OPTIONS", "Preset", "get_preset", "list_presets"]
