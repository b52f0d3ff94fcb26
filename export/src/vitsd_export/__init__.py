"""Export vitsd models and prove that the answers stay the same.

>>> import vitsd_export
>>> vitsd_export.export("model.keras", format="tflite", quantize="dynamic")
"""

from importlib import import_module

__version__ = "0.1.0"
_HOME = {"export": "exporter", "Artifact": "exporter", "compare": "gate", "fold": "graph.folding"}
__all__ = sorted(_HOME)


def __getattr__(name):  # imported on first use: TensorFlow takes seconds to load
    if name not in _HOME:
        raise AttributeError(f"module 'vitsd_export' has no attribute {name!r}")
    return getattr(import_module(f"vitsd_export.{_HOME[name]}"), name)


def __dir__():
    return [*globals(), *__all__]
