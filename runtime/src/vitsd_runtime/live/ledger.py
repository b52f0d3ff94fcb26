"""What was answered already: a file of JSON lines that outlives the program."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.files import temporary_folder
from vitsd_runtime.system.json_files import parse_json
from vitsd_runtime.system.streams import write_whole
from vitsd_runtime.system.text import printable, why

_MAX_LINE = 16 * 2**20
"""Bytes: an answer with 100,000 classes."""
_SPARE_LINES = 1000
"""Of images that are there no more; with more, and more than twice those that are, they go."""


class Stamp(NamedTuple):
    """What tells an image from others and from its own earlier content."""

    size: int
    """Bytes."""
    mtime_ns: int
    inode: int
    checksum: int
    """CRC-32 of its first bytes."""


class Ledger:
    """The images of a folder that were answered, by name; use with ``with``.

    A file of JSON lines, one for each image, that is only appended to. With ``with_answers`` the
    lines are the answers themselves, so that each is there exactly once, however the program
    ends, and nothing is forgotten; else they only say what was answered, and those of images that
    are gone are removed in time. A second file, ``NAME.lock``, keeps others away and names the
    image that is being read: if that ends the program, the next one knows.

    Args:
        path: of the file; it need not exist.
        with_answers: see above.

    Raises:
        UsageError: the file holds something else.
        VitsdError: another program uses it, or it can't be written.
    """

    def __init__(self, path: Path, with_answers: bool = False) -> None:
        self._path, self._with_answers = path, with_answers
        self.known: dict[str, Stamp] = {}
        """The last stamp of every image that was answered."""
        self._by_inode: dict[int, tuple[str, Stamp]] = {}
        self._lines = 0
        self._open()
        self._tries = self._read_tries()

    def __enter__(self) -> Ledger:
        """Itself, open."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close the files: nothing is being read."""
        if self._is_open:  # not after a failure to open them anew
            self.end()
            self._close()

    def last_with(self, inode: int) -> tuple[str, Stamp] | None:
        """The image that was answered last with this inode; its name may be another's by now."""
        return self._by_inode.get(inode)

    def begin(self, name: str, seen: Sequence[int]) -> int:
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

    def add(self, name: str, stamp: Stamp, answer: Mapping[str, Any]) -> None:
        """Note that an image was answered.

        Raises:
            OSError: it can't be written; what was of it is taken back.
        """
        content = answer if self._with_answers else {}
        write_whole(self._file, _line(name, stamp, content))
        self._remember(name, stamp)

    def tidy(self, present: Collection[str], all_seen: bool) -> None:
        """Forget images that are gone, once they are many; make the file anew if it was removed.

        Args:
            present: names of the images that are there.
            all_seen: False if some may be there and were not found.
        """
        there = self._is_in_place()
        if not there:
            self._close()
            self._open()
        if self._with_answers:  # their file knows of all: so does the next start
            return
        many = self._lines > 2 * len(present) + _SPARE_LINES and all_seen
        if many:
            self.known = {name: stamp for name, stamp in self.known.items() if name in present}
            self._by_inode = {stamp.inode: (name, stamp) for name, stamp in self.known.items()}
            self._lines = len(self.known)
        if many or not there:
            self._rewrite()

    def _open(self) -> None:
        with self._explained(), contextlib.ExitStack() as undo:
            file = _open(self._path)
            undo.callback(os.close, file)
            lock = _open(self._path.with_name(f"{self._path.name}.lock"))
            undo.callback(os.close, lock)
            _lock(lock, self._path)
            self._read(file)
            undo.pop_all()
        self._file, self._lock, self._is_open = file, lock, True

    def _close(self) -> None:
        os.close(self._file)
        os.close(self._lock)
        self._is_open = False

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
                name, stamp = self._parsed(line)
                self._remember(name, stamp)
                whole += len(line)
        os.ftruncate(file, whole)

    def _parsed(self, line: bytes) -> tuple[str, Stamp]:
        try:
            content = parse_json(line, _MAX_LINE)
            name, stamp = content["image"], content["file"]
            if not isinstance(name, str) or not all(type(number) is int for number in stamp):
                raise TypeError
            return name, Stamp(*stamp)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise _not_ours(self._path) from error

    def _remember(self, name: str, stamp: Stamp) -> None:
        self.known[name] = stamp
        self._by_inode[stamp.inode] = name, stamp
        self._lines += 1

    def _read_tries(self) -> tuple[list[Any], int]:
        """What the last program was reading when it ended, and how often it was tried."""
        try:
            tries, *image = parse_json(os.pread(self._lock, 2**16, 0), 2**16)
            return image, int(tries)
        except (ValueError, TypeError):  # it ended in peace
            return [], 0

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.lstat(self._path), os.fstat(self._file))
        except OSError:
            return False

    def _rewrite(self) -> None:
        """Bring the file to what is known, in one step."""
        with self._explained(), temporary_folder(self._path.parent) as folder:
            file = _open(folder / self._path.name)
            try:
                write_whole(file, b"".join(_line(*item, {}) for item in self.known.items()))
                os.replace(folder / self._path.name, self._path)
            except BaseException:
                os.close(file)
                raise
            os.close(self._file)
            self._file = file


def _line(name: str, stamp: Stamp, content: Mapping[str, Any]) -> bytes:
    return json.dumps({"image": name, **content, "file": list(stamp)}).encode() + b"\n"


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
        f"{printable(path)} holds something else than what was answered in a watched folder: name "
        "another file with `output`, or remove it."
    )


def _open(path: Path) -> int:
    """Open a file to append to and to read, made if missing; no link: others may write beside it.

    Raises:
        OSError: it can't be, or it is no regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for somebody
    file = os.open(path, flags, 0o644)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("it is no regular file")
    return file


def _lock(file: int, path: Path) -> None:
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise VitsdError(
            f"Another vitsd-predict writes to {printable(path)}: end it, or name another file "
            "with `output`."
        ) from error
    except (ImportError, OSError):  # not every file system can
        return
