"""A file of answers that is its own state: what is in it needs not be done again."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.files import open_regular
from vitsd_runtime.system.json_files import parse_json
from vitsd_runtime.system.streams import write_whole
from vitsd_runtime.system.text import printable, why

_MAX_LINE = 16 * 2**20
"""Bytes: an answer with 100,000 classes."""


class Answers:
    """JSON lines that are only appended to, each with the name of an image; use with ``with``.

    However the program ends, the lines are whole. A second file, ``NAME.lock``, keeps others away
    and names the image that is being read: if that ends the program, the next one knows.

    Args:
        path: of the file; it need not exist.

    Raises:
        UsageError: the file holds something else.
        VitsdError: another program uses it, or it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock_path = path, path.parent / f"{path.name}.lock"
        self._open()
        self._tries = self._read_tries()

    def __enter__(self) -> Any:
        """Itself, open."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close the files: nothing is being read."""
        if self._is_open:  # not after a failure to open them anew
            self.end()
            self._close()

    def begin(self, name: str, seen: Sequence[int] = ()) -> int:
        """Note that an image is being read; returns how often that has ended the program.

        Args:
            name: of the image.
            seen: numbers that are others if its content is another.
        """
        before, tries = self._tries
        ended = tries if before == [name, *seen] else 0
        content = json.dumps([ended + 1, name, *seen]).encode()
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, content, 0)
        return ended

    def end(self) -> None:
        """Note that no image is being read."""
        os.ftruncate(self._lock, 0)

    def append(self, name: str, content: Mapping[str, Any]) -> None:
        """Add the line of an image.

        Raises:
            OSError: it can't be written; what was of it is taken back.
        """
        write_whole(self._file, answer_line(name, content))
        self._take(name, content)

    def finish(self, target: Path) -> None:
        """Close the files, for ever: what was answered takes the place of ``target``.

        Raises:
            OSError: it can't.
        """
        os.fsync(self._file)
        self._is_open = False
        os.close(self._file)  # Windows renames no open files
        os.replace(self._path, target)
        self._remove_lock()

    def discard(self) -> None:
        """Close the files, for ever, and remove them."""
        self._is_open = False
        os.close(self._file)
        os.unlink(self._path)
        self._remove_lock()

    def _remove_lock(self) -> None:
        with contextlib.suppress(OSError):  # Windows can't
            os.unlink(self._lock_path)
        os.close(self._lock)

    def _take(self, name: str, content: Mapping[str, Any]) -> None:
        """Learn from a line of the file.

        Raises:
            ValueError, TypeError, KeyError: it is not one of ours.
        """
        raise NotImplementedError

    def _open(self) -> None:
        with self._explained(), contextlib.ExitStack() as undo:
            file = open_regular(self._path, os.O_APPEND)
            undo.callback(os.close, file)
            lock = open_regular(self._lock_path, os.O_APPEND)
            undo.callback(os.close, lock)
            self._take_lock(lock)
            self._read(file)
            undo.pop_all()
        self._file, self._lock, self._is_open = file, lock, True

    def _close(self) -> None:
        os.close(self._file)
        os.close(self._lock)
        self._is_open = False

    def _take_lock(self, lock: int) -> None:
        try:
            import fcntl  # not on Windows

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = False
        except (ImportError, OSError):  # not every file system can
            return
        else:  # or whoever had it has removed it, and another one may have a new one
            locked = is_at(self._lock_path, lock)
        if not locked:
            raise VitsdError(
                f"Another vitsd-predict writes to {printable(self._path)}: end it, or name "
                "another file with `output`."
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VitsdError(
                f"What was answered can't be kept in {printable(self._path)}: {why(error)}. Name "
                "a file elsewhere with `output`."
            ) from error

    def _read(self, file: int) -> None:
        """Learn what is in the file; the half line of a program that was cut short goes."""
        whole = 0
        with open(os.dup(file), "rb") as lines:
            for line in _lines(lines, self._path):
                try:
                    content = parse_json(line, _MAX_LINE)
                    self._take(_text(content["image"]), content)
                except (ValueError, TypeError, KeyError, IndexError) as error:
                    raise _not_ours(self._path) from error
                whole += len(line)
        if whole < os.fstat(file).st_size:
            os.ftruncate(file, whole)

    def _read_tries(self) -> tuple[list[Any], int]:
        """What the last program was reading when it ended, and how often it was tried."""
        try:
            tries, *image = parse_json(os.pread(self._lock, 2**16, 0), 2**16)
            return image, int(tries)
        except (ValueError, TypeError):  # it ended in peace
            return [], 0


def is_at(path: Path, file: int) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except OSError:
        return False


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def answer_line(name: str, content: Mapping[str, Any]) -> bytes:
    """The line of an image."""
    return json.dumps({"image": name, **content}).encode() + b"\n"


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Whole lines of a file; a half one at its end must be the beginning of one of ours."""
    beginning = b'{"image": '
    while line := file.readline(_MAX_LINE):
        if line.endswith(b"\n"):
            yield line
        elif len(line) == _MAX_LINE or not (
            line.startswith(beginning) or beginning.startswith(line) or not line.strip(b"\0")
        ):
            raise _not_ours(path)


def _not_ours(path: Path) -> UsageError:
    return UsageError(
        f"{printable(path)} holds something else than answers of vitsd-predict: name another file "
        "with `output`, or remove it."
    )
