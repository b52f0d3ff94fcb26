"""Run a model in a process of its own first, where its structure does not prove that it is safe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

from vitsd_runtime.engines.base import Model, blank_images, model_path
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.child import run_in_child
from vitsd_runtime.types import Backend, Format


def try_in_child(model: Model, format: Format, backend: Backend | None = None) -> None:
    """Load a model and run it on one and on two grey images, in a new process.

    Args:
        model: path of a file, or a file's content.
        format: the model's.
        backend: the engine; None: the first that is installed.

    Raises:
        VitsdError: it crashes, is refused, or takes too much time or memory.
    """
    content = model.read_bytes() if isinstance(model, Path) else model
    reason = run_in_child(__name__, f"{format} {backend or ''}", content)
    if reason is not None:
        raise VitsdError(f"{model_path(model)} is refused: {reason}")


def main(argument: str) -> None:
    """The new process, for a format and a backend: the model's content comes from stdin."""
    from vitsd_runtime.engines.load import start_engine

    format, _, backend = argument.partition(" ")
    engine = start_engine(
        sys.stdin.buffer.read(), cast(Format, format), backend=cast(Backend, backend) or None
    )
    for count in (1, 2):
        engine.run(blank_images(engine, count))
