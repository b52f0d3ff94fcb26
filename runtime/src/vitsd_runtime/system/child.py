"""Do in a process of its own, with limits, what may end the process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from importlib import import_module

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import printable

_MAX_SECONDS = 60
_MAX_BYTES = 4 << 30
"""Of address space, of which engines reserve much and use little."""
_CHILD = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from vitsd_runtime.system import child; child.main(*sys.argv[1:3])"
)


def run_in_child(
    module: str, argument: str, content: bytes = b"", seconds: float = _MAX_SECONDS
) -> str | None:
    """Call ``main(argument)`` of a module in a new process.

    Args:
        module: its dotted name.
        argument: of its ``main``, which says what is wrong by raising a VitsdError.
        content: what the process finds on its standard input.
        seconds: after which it is ended.

    Returns:
        Why it failed, safe to show; None if it did not.
    """
    # -I and no empty entry: nothing in the current folder is imported.
    command = [sys.executable, "-I", "-c", _CHILD, module, argument, *filter(None, sys.path)]
    try:
        child = subprocess.run(command, input=content, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {seconds:g} seconds"
    if not child.returncode:
        return None
    lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
    if lines and child.returncode == 1:
        return printable(lines[-1])
    return f"it ends its process: exit code {child.returncode}"


def main(module: str, argument: str) -> None:
    """The new process."""
    work = import_module(module).main
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        work(argument)
    except VitsdError as error:
        sys.exit(str(error))
