"""Run a model in a process of its own first, where its structure does not prove that it is safe."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from vitsd_runtime.engines.base import Model, blank_images, model_path
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Format

_MAX_SECONDS = 60
_MAX_BYTES = 4 << 30
"""Of address space, of which engines reserve much and use little."""
_CHILD = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from vitsd_runtime.engines import probe; probe.main(sys.argv[1])"
)


def try_in_child(model: Model, format: Format) -> None:
    """Load a model and run it on one and on two grey images, in a new process.

    Args:
        model: path of a file, or a file's content.
        format: the model's.

    Raises:
        VitsdError: it crashes, is refused, or takes too much time or memory.
    """
    content = model.read_bytes() if isinstance(model, Path) else model
    # -I and no empty entry: nothing in the current folder is imported.
    command = [sys.executable, "-I", "-c", _CHILD, format, *filter(None, sys.path)]
    try:
        child = subprocess.run(command, input=content, capture_output=True, timeout=_MAX_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise VitsdError(
            f"{model_path(model)} is refused: it did not answer within {_MAX_SECONDS} seconds."
        ) from error
    if child.returncode:
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines and child.returncode == 1 else f"exit code {child.returncode}"
        raise VitsdError(f"{model_path(model)} ends its engine: {printable(reason)}")


def main(format: Format) -> None:
    """The new process: the model's content comes from stdin."""
    from vitsd_runtime.engines.load import start_engine

    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    try:
        engine = start_engine(sys.stdin.buffer.read(), format)
        for count in (1, 2):
            engine.run(blank_images(engine, count))
    except VitsdError as error:
        sys.exit(str(error))
