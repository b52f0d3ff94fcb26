"""Run a model in a process of its own first, where its structure does not prove that it is safe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

from vitsd_runtime.engines.base import Model, blank_images, model_path
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.child import run_in_child
from vitsd_runtime.types import Format


def try_in_child(model: Model, format: Format) -> None:
    """Load a model and run it on one and on two grey images, in a new process.

    Args:
        model: path of a file, or a file's content.
        format: the model's.

    Raises:
        VitsdError: it crashes, is refused, or takes too much time or memory.
    """
    content = model.read_bytes() if isinstance(model, Path) else model
    reason = run_in_child(__name__, format, content)
    if reason is not None:
        raise VitsdError(f"{model_path(model)} is refused: {reason}")


def main(format: str) -> None:
    """The new process: the model's content comes from stdin."""
    from vitsd_runtime.engines.load import start_engine

    engine = start_engine(sys.stdin.buffer.read(), cast(Format, format))
    for count in (1, 2):
        engine.run(blank_images(engine, count))
