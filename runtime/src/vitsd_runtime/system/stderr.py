"""Hold back what native libraries write to stderr, where the process is a command's own."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import BinaryIO, ClassVar


class _Owner:
    """Whether stderr is ours: the file descriptor belongs to the whole process."""

    commands: ClassVar[int] = 0
    turn: ClassVar[threading.RLock] = threading.RLock()


@contextlib.contextmanager
def own_stderr() -> Iterator[None]:
    """Let :func:`quiet_stderr` do its work in this block. For commands, never for libraries."""
    _Owner.commands += 1
    try:
        yield
    finally:
        _Owner.commands -= 1


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """In a command, hold back what is written to stderr; show it if an error leaves the block.

    TensorFlow logs to the file descriptor while it is imported, before any of its settings takes
    effect, and TensorFlow Lite has no setting. In a program that uses the libraries, nothing
    happens here: other threads write to stderr too, and what they write must arrive.
    """
    if not _Owner.commands:
        yield
        return
    with _Owner.turn, contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(_memory())
            saved = os.dup(2)
        except OSError:  # no stderr, or no place to hold anything
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            with contextlib.suppress(OSError):  # the error is what matters
                os.write(saved, held.read()[-20_000:])
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _memory() -> BinaryIO:
    """A file without a name; on Linux one that needs no place on a disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    import tempfile  # half a millisecond, which Linux need not wait for

    return tempfile.TemporaryFile()
