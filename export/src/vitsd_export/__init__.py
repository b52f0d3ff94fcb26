"""Export vitsd models and prove that the answers stay the same.

>>> import vitsd_export
>>> vitsd_export.export("model.keras", format="tflite", quantization="dynamic")

The names below are imported on first use: TensorFlow takes seconds to load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitsd_export.exporter import Artifact, ParityError, export
    from vitsd_export.gate import compare
    from vitsd_export.graph.folding import fold
    from vitsd_export.keras2.importer import import_saved_model
    from vitsd_export.options import ExportOptions
    from vitsd_export.quantization.search import BudgetError

__all__ = [
    "Artifact",
    "BudgetError",
    "ExportOptions",
    "ParityError",
    "compare",
    "export",
    "fold",
    "import_saved_model",
]

_MODULES = {
    "Artifact": "exporter",
    "BudgetError": "quantization.search",
    "ExportOptions": "options",
    "ParityError": "exporter",
    "compare": "gate",
    "export": "exporter",
    "fold": "graph.folding",
    "import_saved_model": "keras2.importer",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from vitsd_runtime.system.version import version_of

        return version_of("vitsd-export")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
