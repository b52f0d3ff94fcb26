"""The sections of the report: each module has a function ``run(request)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NAMES = (
    "datasets",
    "export",
    "folder",
    "growth",
    "latency",
    "quantization",
    "runtime",
    "scaling",
    "serving",
    "shipped",
    "training",
)
Results = dict[str, Any]
"""JSON-able. ``summary`` holds rows of what was measured: what it is, the figure, the promise."""


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Of the power of the size with which a cost grows: 1 is in proportion, 2 quadratic."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


@dataclass(frozen=True)
class Request:
    """What a section may use."""

    scratch: Path
    """An empty folder."""
    pictures: Path
    """A folder for pictures that stay."""
    model: Path | None = None
    """A trained ``model.keras``."""
    data: str | None = None
    """Its dataset; None: what it was trained on."""
