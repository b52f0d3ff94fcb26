"""Specs written before schema 2, brought to today's names. Remove it when no such file is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitsd_runtime.errors import UsageError

_SPEC = {"fit": "resize_mode", "resize_method": "interpolation"}
_ARCHITECTURE = {"width": "hidden_dim", "depth": "num_layers"}
_TRAINING_RECIPE = {
    "warmup": "warmup_fraction",
    "validation": "validation_fraction",
    "clip_norm": "global_clipnorm",
    "mixup": "mixup_alpha",
    "cutmix": "cutmix_alpha",
    "ema": "ema_momentum",
}
_FINE_TUNED = {"freeze_body": "freeze_backbone"}
_STORED_TWICE = ("input_size", "image_size")
"""Stood in the architecture too."""


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of a schema 1 spec as one of schema 2.

    Raises:
        UsageError: its architecture contradicts the rest.
    """
    values = _renamed(values, _SPEC)
    for section, names in (
        ("architecture", _ARCHITECTURE),
        ("provenance", {}),
        ("export", {}),
    ):
        if section in values:
            values[section] = _renamed(_object(values[section], section), names)
    architecture = values.pop("architecture", {})
    if architecture:
        _check_agreement(architecture, values)
        values["architecture"] = upgrade_architecture(architecture)
    provenance = values.get("provenance", {})
    for name, names in (("recipe", _TRAINING_RECIPE), ("fine_tuned_from", _FINE_TUNED)):
        if name in provenance:
            renamed = _renamed(_object(provenance[name], f"provenance.{name}"), names)
            provenance[name] = renamed
    return {name: value for name, value in values.items() if value != {}}


def upgrade_architecture(values: Mapping[str, Any]) -> dict[str, Any]:
    """Today's names; without what stands beside the architecture."""
    today = _renamed(values, _ARCHITECTURE)
    return {k: v for k, v in today.items() if k not in (*_STORED_TWICE, "num_classes")}


def _check_agreement(architecture: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    outside = {
        "num_classes": len(values.get("class_names", ())),
        **{name: values.get(name) for name in _STORED_TWICE},
    }
    for name, value in outside.items():
        if name in architecture and architecture[name] != value:
            raise UsageError(f"it contradicts itself about {name}")


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} must be an object")
    return value
