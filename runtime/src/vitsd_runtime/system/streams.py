"""Standard streams that are closed, or that can't be written to."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from typing import Any


def open_missing_streams() -> None:
    """Open the null device in place of a closed stdin, stdout or stderr.

    Otherwise the next file that is opened takes its number, and gets what was meant for it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, and so this one; child processes need it too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def drop_unwritable_messages() -> None:
    """From now on, what can't be written to stderr is dropped: a full disk ends no work.

    What is written later is tried again. Nothing happens where a program has its own stderr.
    """
    stream = sys.stderr
    if isinstance(stream, io.TextIOWrapper) and _number(stream) == 2:
        stream.flush()
        sys.stderr = io.TextIOWrapper(
            _Messages(2, "w", closefd=False),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=True,
        )


def write_whole(file: int, content: bytes) -> None:
    """Write to a file descriptor, all of it or, in a file, nothing.

    Raises:
        OSError: it could not be written; what was is taken back, where that is possible.
    """
    rest = memoryview(content)
    start = _end_of_file(file)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        if start is not None and _end_of_file(file) is not None:  # nobody else writes there
            os.ftruncate(file, start)
        raise


class _Messages(io.FileIO):
    """A file that takes everything, and writes what can be written."""

    def write(self, content: Any, /) -> int:
        """Write all of it, or drop the rest; returns its length."""
        rest = memoryview(content)
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[super().write(rest) or len(rest) :]
        return len(content)


def _end_of_file(file: int) -> int | None:
    """Where the next byte goes, if ``file`` is a file on disk that ends there."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        return None
    position = os.lseek(file, 0, os.SEEK_CUR)
    return position if position == status.st_size else None


def _number(stream: io.TextIOWrapper) -> int | None:
    """The stream's file descriptor, if it has one."""
    try:
        return stream.fileno()
    except OSError:  # it is in memory
        return None
