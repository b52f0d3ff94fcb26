"""The sections of the report: each module has a function ``run(request)``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = (
    "export",
    "folder",
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


@dataclass(frozen=True)
class Request:
    """What a section may use."""

    scratch: Path
    """An empty folder."""
    model: Path | None = None
    """A trained ``model.keras``."""
    data: str | None = None
    """Its dataset; None: what it was trained on."""
