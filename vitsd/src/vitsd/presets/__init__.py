"""Presets: each module here holds one, its expected result and cost in its docstring."""

from vitsd.presets.preset import Preset, get_preset, list_presets

__all__ = ["Preset", "get_preset", "list_presets"]
