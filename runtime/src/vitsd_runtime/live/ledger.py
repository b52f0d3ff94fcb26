"""What was answered of a watched folder: a file of JSON lines that outlives the program."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vitsd_runtime.live.answers import Answers, answer_line, is_at
from vitsd_runtime.system.files import open_regular, temporary_folder
from vitsd_runtime.system.streams import write_whole

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


class Ledger(Answers):
    """The images of a folder that were answered, by name, each with its stamp.

    With ``with_answers`` the lines are the answers themselves, so that each is there exactly once,
    however the program ends, and nothing is forgotten; else they only say what was answered, and
    those of images that are gone are removed in time.

    Args:
        path: of the file; it need not exist.
        with_answers: see above.

    Raises:
        UsageError: the file holds something else.
        VitsdError: another program uses it, or it can't be written.
    """

    def __init__(self, path: Path, with_answers: bool = False) -> None:
        self._with_answers = with_answers
        self.known: dict[str, Stamp] = {}
        """The last stamp of every image that was answered."""
        self._by_inode: dict[int, tuple[str, Stamp]] = {}
        self._lines = 0
        super().__init__(path)

    def last_with(self, inode: int) -> tuple[str, Stamp] | None:
        """The image that was answered last with this inode; its name may be another's by now."""
        return self._by_inode.get(inode)

    def add(self, name: str, stamp: Stamp, answer: Mapping[str, Any]) -> None:
        """Note that an image was answered.

        Raises:
            OSError: it can't be written; what was of it is taken back.
        """
        self.append(name, _content(stamp, answer if self._with_answers else {}))

    def tidy(self, present: Collection[str], all_seen: bool) -> None:
        """Forget images that are gone, once they are many; make the file anew if it was removed.

        Args:
            present: names of the images that are there.
            all_seen: False if some may be there and were not found.
        """
        there = is_at(self._path, self._file)
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

    def _take(self, name: str, content: Mapping[str, Any]) -> None:
        stamp = Stamp(*content["file"])
        if not all(type(number) is int for number in stamp):
            raise TypeError
        self.known[name] = stamp
        self._by_inode[stamp.inode] = name, stamp
        self._lines += 1

    def _rewrite(self) -> None:
        """Bring the file to what is known, in one step."""
        lines = (answer_line(name, _content(stamp, {})) for name, stamp in self.known.items())
        with self._explained(), temporary_folder(self._path.parent) as folder:
            file = open_regular(folder / self._path.name, os.O_APPEND)
            try:
                write_whole(file, b"".join(lines))
                os.replace(folder / self._path.name, self._path)
            except BaseException:
                os.close(file)
                raise
            os.close(self._file)
            self._file = file


def _content(stamp: Stamp, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {**answer, "file": list(stamp)}
