"""Specs written before schema 2, brought to today's names. Remove it when no such file is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec.architecture import Architecture
from vitsd_runtime.spec.sections import ExportInfo, Provenance

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
_NEEDED = ("quantization", "preprocessing_embedded", "batch_invariant")
"""Entries that inference or the parity gate rests on."""
_STORED_TWICE = ("input_size", "image_size")
"""Stood in the architecture too."""


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of a schema 1 spec as one of schema 2.

    Descriptions that schema 1 did not check, and schema 2 would refuse, are left out.

    Raises:
        UsageError: the architecture contradicts the rest, or a section is no object.
    """
    values = _renamed(values, _SPEC)
    architecture = _object(values.pop("architecture", {}), "architecture")
    _check_agreement(architecture, values)
    values["architecture"] = _architecture(architecture)
    values["provenance"] = _provenance(_object(values.get("provenance", {}), "provenance"))
    values["export"] = _valid_entries(ExportInfo, _object(values.get("export", {}), "export"))
    return {name: value for name, value in values.items() if value not in ({}, None)}


def _architecture(values: Mapping[str, Any]) -> dict[str, Any] | None:
    today = upgrade_architecture(values)
    known = {field.name for field in dataclasses.fields(Architecture)}
    return today if today.keys() <= known else None  # of another kind of model


def _provenance(values: Mapping[str, Any]) -> dict[str, Any]:
    provenance = dict(values)
    for name, names in (("recipe", _TRAINING_RECIPE), ("fine_tuned_from", _FINE_TUNED)):
        if name in provenance:
            provenance[name] = _renamed(_object(provenance[name], f"provenance.{name}"), names)
    return _valid_entries(Provenance, provenance)


def _valid_entries(section: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that the section takes; all of them are optional."""
    valid = {}
    for name, value in values.items():
        try:
            section(**{name: value})
        except (UsageError, TypeError):
            if name in _NEEDED:
                raise
            continue
        valid[name] = value
    return valid


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
