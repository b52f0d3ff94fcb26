"""All that is compared. A new subject is a row in a module of ``subjects``.

A new module there is a name in :data:`_MODULES`.
"""

from __future__ import annotations

from importlib import import_module

from benchmarks.peers.subject import Subject

_MODULES = (
    "ours",
    "keras_itself",
    "litert",
    "onnx_runtime",
    "open_vino",
    "pytorch",
    "executorch_xnnpack",
    "mnn_engine",
    "ncnn_engine",
)


def all_subjects() -> tuple[Subject, ...]:
    """In the order of the modules; each imports its engine only where it builds or starts it."""
    modules = [import_module(f"benchmarks.peers.subjects.{name}") for name in _MODULES]
    return tuple(subject for module in modules for subject in module.SUBJECTS)
