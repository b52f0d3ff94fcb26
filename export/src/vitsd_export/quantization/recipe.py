"""How each layer of a model is quantized: data, found by a search, that can be replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitsd_export.quantization.ranges import MINMAX, RangeMethod
from vitsd_export.quantization.schemes import PRECISIONS, Precision
from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import Architecture
from vitsd_runtime.spec.schema1 import upgrade_architecture
from vitsd_runtime.system.json_files import read_json
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import FORMATS, QUANTIZATIONS, Format, PathLike, Quantization

SCHEMA_VERSION = 2
_LARGEST_FILE = 4_000_000  # bytes; a recipe file may be anyone's
_SCHEMA_1_GROUPS = {"normalised": "normalized", "others": "intermediates"}
"""Groups of tensors that have another name now."""


@dataclass(frozen=True)
class LayerChoice:
    """Precision of one dense layer, or group of tensors, and how its range is chosen."""

    precision: Precision
    method: RangeMethod = MINMAX
    """Of the activations of ``static`` layers and of the weights of ``int4`` layers."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerChoice:
        """The inverse of :meth:`to_dict`. Raises UsageError."""
        precision = values["precision"]
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision {precision!r:.60}")
        if unknown := values.keys() - {"precision", "method"}:
            raise UsageError(f"unknown entry {min(unknown)!r:.60}")
        return cls(precision, RangeMethod.parse(values.get("method", str(MINMAX))))

    def to_dict(self) -> dict[str, str]:
        """JSON-serializable."""
        return {"precision": self.precision, "method": str(self.method)}


Choices = Mapping[str, LayerChoice]
"""By the name of the dense layer, or of the group of tensors."""


@dataclass(frozen=True)
class QuantizationRecipe:
    """A quantization that was found for one architecture, format and target."""

    quantization: Quantization
    format: Format
    target: str
    architecture: Architecture
    layers: Choices
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What was found on held-out images: sensitivities, accuracy, images."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serializable object; the inverse of :meth:`from_dict`."""
        return {
            "schema": SCHEMA_VERSION,
            "quantization": self.quantization,
            "format": self.format,
            "target": self.target,
            "architecture": self.architecture.to_dict(),
            "layers": {name: choice.to_dict() for name, choice in self.layers.items()},
            "measured": dict(self.measured),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizationRecipe:
        """Read a recipe of any schema version up to :data:`SCHEMA_VERSION`.

        Raises:
            UsageError: ``values`` are not what :meth:`to_dict` gives, or gave.
        """
        try:
            values = _upgraded(values)
            for name, known in (("quantization", QUANTIZATIONS), ("format", FORMATS)):
                if values[name] not in known:
                    raise UsageError(f"unknown {name} {values[name]!r:.60}")
            architecture = Architecture.from_dict(values.pop("architecture"))
            choices = values.pop("layers").items()
            layers = {str(name): LayerChoice.from_dict(choice) for name, choice in choices}
            return cls(architecture=architecture, layers=layers, **values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"not a quantization recipe of vitsd-export ({first_line(error)})"
            ) from error

    def check(
        self, quantization: Quantization, format: Format, target: str, architecture: Architecture
    ) -> None:
        """Raise UsageError if the recipe is for something else."""
        for name, own, requested in (
            ("quantization", self.quantization, quantization),
            ("format", self.format, format),
            ("target", self.target, target),
        ):
            if own != requested:
                raise UsageError(f"The recipe is for {name} {printable(own, 80)}, not {requested}.")
        own_architecture, other = map(dataclasses.asdict, (self.architecture, architecture))
        if differing := sorted(k for k in own_architecture if own_architecture[k] != other[k]):
            raise UsageError(
                f"The recipe is for another architecture ({', '.join(differing[:4])} differ); "
                "leave `recipe` out to search a new one."
            )


def read_recipe(recipe: PathLike | Mapping[str, Any]) -> QuantizationRecipe:
    """A recipe from a ``.recipe.json`` file, or from a spec's ``export.recipe``.

    Raises:
        UsageError: the file is missing, too large, or no recipe.
    """
    if isinstance(recipe, Mapping):
        try:
            return QuantizationRecipe.from_dict(recipe)
        except UsageError as error:
            raise UsageError(f"The recipe is {error}.") from error
    values = read_json(recipe, "a quantization recipe", _LARGEST_FILE)
    try:
        return QuantizationRecipe.from_dict(values)
    except UsageError as error:
        raise UsageError(f"{printable(recipe)} is {error}.") from error


def _upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without its schema version, in today's names."""
    values = dict(values)
    version = values.pop("schema")
    if version == 1:
        values["architecture"] = upgrade_architecture(values["architecture"])
        layers = values["layers"].items()
        values["layers"] = {_SCHEMA_1_GROUPS.get(name, name): layer for name, layer in layers}
    elif version != SCHEMA_VERSION:
        raise UsageError(f"it has schema version {version!r:.20}")
    return values
