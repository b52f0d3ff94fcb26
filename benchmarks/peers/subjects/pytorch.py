"""The plain model in PyTorch, eager and compiled."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.subject import Run, Subject
from benchmarks.peers.workshop import MODEL, Workshop
from vitsd_runtime.types import Float32Array


def _build(workshop: Workshop, batch: int) -> Path:
    return workshop.folder / MODEL


def _eager(path: Path, threads: int, batch: int) -> Run:
    return _start(path, threads, compiled=False)


def _compiled(path: Path, threads: int, batch: int) -> Run:
    return _start(path, threads, compiled=True)


def _start(path: Path, threads: int, compiled: bool) -> Run:
    import torch

    torch.set_num_threads(threads)
    model = Workshop(path.parent).torch()
    if compiled:
        model = torch.compile(model)

    def run(images: Float32Array) -> Float32Array:
        with torch.inference_mode():
            logits: Float32Array = model(torch.from_numpy(images)).numpy()
        return logits

    return run


SUBJECTS = (
    Subject("PyTorch eager", "PyTorch", "float32", _build, _eager),
    Subject("PyTorch compiled", "PyTorch", "float32", _build, _compiled),
)
