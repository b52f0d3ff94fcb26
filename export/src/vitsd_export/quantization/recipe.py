"""How each dense layer of a model is quantised: data, found by :mod:`vitsd_export.quantization.search`, that can be replayed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitsd_runtime.errors import UsageError

_SCHEMA = 1
_LARGEST_FILE = 4_000_000
PRECISIONS = ("int4", "static", "dynamic", "float")
"""Of a dense layer, from the coarsest: int4 weights and activations quantised at run time; int8 with ranges fixed by
calibration; int8 weights and activations quantised at run time; not quantised."""


@dataclass(frozen=True)
class LayerChoice:
    """Precision of one dense layer, and how its ranges are chosen.

    ``method``: see :meth:`vitsd_export.quantization.ranges.Distribution.range`; of the activations of ``static`` layers, of the
    weights of ``int4`` layers, else ``minmax``.
    """

    precision: str
    method: str = "minmax"


@dataclass(frozen=True)
class QuantizationRecipe:
    """A quantisation that was found for one architecture, format and target."""

    quantization: str
    format: str
    target: str
    architecture: Mapping
    layers: Mapping[str, LayerChoice]
    measured: Mapping = field(default_factory=dict)
    """What was found on held-out images: sensitivities, accuracy, images."""

    def to_dict(self) -> dict:
        layers = {name: dataclasses.asdict(choice) for name, choice in self.layers.items()}
        return {
            "schema": _SCHEMA,
            **dataclasses.asdict(self),
            "architecture": dict(self.architecture),
            "layers": layers,
        }

    @classmethod
    def from_dict(cls, values: dict) -> QuantizationRecipe:
        """Raises UsageError if ``values`` are not what :meth:`to_dict` gives."""
        try:
            values = dict(values)
            if values.pop("schema") != _SCHEMA:
                raise ValueError("it has another schema version")
            layers = {
                str(name): LayerChoice(**choice) for name, choice in values.pop("layers").items()
            }
            if unknown := [c.precision for c in layers.values() if c.precision not in PRECISIONS]:
                raise ValueError(f"unknown precision {unknown[0]!r}")
            return cls(layers=layers, **values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a quantisation recipe of vitsd-export ({error})") from error

    def check(self, quantization: str, format: str, target: str, architecture: Mapping) -> None:
        """Raises UsageError if the recipe is for something else."""
        for name, mine, wanted in (
            ("quantisation", self.quantization, quantization),
            ("format", self.format, format),
            ("target", self.target, target),
        ):
            if mine != wanted:
                raise UsageError(f"The recipe is for {name} {mine}, not {wanted}.")
        theirs = dict(self.architecture)
        if differing := [
            k for k in {*theirs, *architecture} if theirs.get(k) != architecture.get(k)
        ]:
            raise UsageError(
                f"The recipe is for another architecture ({', '.join(sorted(differing)[:4])} differ); "
                "leave --recipe out to search a new one."
            )


def read_recipe(path: str | Path) -> QuantizationRecipe:
    """Raises UsageError if the file is missing, too large, or no recipe."""
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{path} is too large for a recipe.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The recipe can't be read: {error}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not a recipe: {error}") from error
    try:
        return QuantizationRecipe.from_dict(values)
    except UsageError as error:
        raise UsageError(f"{path} is {error}.") from error
