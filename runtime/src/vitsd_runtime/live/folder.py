"""Images of a folder as they arrive: complete ones, each once.

The folder is looked through again and again. The system's notices of changes would be quicker, but
they get lost when many come at once, and network folders send none; what is found by looking is
found after a restart, too.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.images.files import ImageScan, scan_images
from vitsd_runtime.images.reading import DEADLY, MAX_TRIES
from vitsd_runtime.live.ledger import Ledger, Stamp
from vitsd_runtime.system.text import printable, why
from vitsd_runtime.types import UInt8Array

SETTLED_SECONDS = 1.0
"""A file whose size and time of change stay the same for so long may be complete."""
_PATIENCE_SECONDS = 10.0
"""One that can't be decoded may still be written; after so long without a change it is broken."""
_MAX_PAUSE_SECONDS = 30.0
"""Between two tries to open a file: it may be permitted at any time."""
_REST = 4
"""Times as long as a look took is the least time to the next one."""
_CHECKED_BYTES = 2**16


@dataclass(frozen=True)
class Arrival:
    """An image to answer."""

    name: str
    """Its path in the folder."""
    stamp: Stamp
    content: UInt8Array | str
    """Its pixels as the model takes them, or why there are none."""


class _Seen(NamedTuple):
    """What a look says of a file, without opening it."""

    size: int
    mtime_ns: int
    inode: int


@dataclass
class _Waiting:
    """A file that is not answered yet."""

    seen: _Seen
    since: float
    """When it was first seen like this; by a clock that never jumps."""
    next_try: float
    told: bool = False


class Watch:
    """Finds images that were not answered yet.

    Args:
        folder: also its subfolders are looked through, by the rule of
            :func:`vitsd_runtime.images.files.scan_images`.
        ledger: what was answered; whoever answers adds to it.
        load: reads an open image file; raises VitsdError if it is none.
        tell: called with a message about what can't be read, once.
        every: seconds between two looks.
    """

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        load: Callable[[BinaryIO], UInt8Array],
        tell: Callable[[str], None],
        every: float = 1.0,
    ) -> None:
        self._folder, self._ledger, self._load, self._tell = folder, ledger, load, tell
        self._every = every
        self._waiting: dict[str, _Waiting] = {}
        self._away: bool | None = None  # not known before the first look

    def arrivals(self) -> Iterator[Arrival]:
        """Complete images, those that are there already first; without an end.

        Raises:
            OSError, VitsdError: what was answered can't be kept.
        """
        while True:
            started = time.monotonic()
            self._look()
            pause = _REST * (time.monotonic() - started)
            for name, waiting in list(self._waiting.items()):
                if waiting.next_try <= time.monotonic():
                    yield from self._try(name, waiting)
                    self._ledger.end()
            most = min(self._every, SETTLED_SECONDS) if self._waiting else self._every
            time.sleep(max(pause, most))

    def _look(self) -> None:
        """Bring what is waiting up to date."""
        scan = self._scan()
        if scan is None:
            self._waiting.clear()
            return
        found = dict(self._found(scan))
        now = time.monotonic()
        waiting = {}
        for name, seen in found.items():
            if self._is_answered(name, seen, found):
                continue
            before = self._waiting.get(name)
            if before is None or before.seen != seen:
                before = _Waiting(seen, now, now + SETTLED_SECONDS)
            waiting[name] = before
        self._waiting = waiting
        self._ledger.tidy(found.keys(), not scan.unreadable)

    def _scan(self) -> ImageScan | None:
        """What is in the folder; None while it is not there."""
        try:
            scan = scan_images(self._folder)
        except OSError as error:
            if not self._away:
                self._tell(
                    f"{printable(self._folder)} can't be read ({why(error)}); it is looked for "
                    "until it is back"
                )
            self._away = True
            return None
        if self._away:
            self._tell(f"{printable(self._folder)} is back")
        if self._away is None and (left_out := scan.describe()):
            self._tell(f"{printable(self._folder)}: {left_out}")
        self._away = False
        return scan

    def _found(self, scan: ImageScan) -> Iterator[tuple[str, _Seen]]:
        root = os.path.join(self._folder, "")
        for path in map(str, scan.files):
            try:
                yield path.removeprefix(root), _seen(os.stat(path))
            except OSError:  # it was removed in between
                continue

    def _is_answered(self, name: str, seen: _Seen, found: Mapping[str, _Seen]) -> bool:
        stamp = self._ledger.known.get(name)
        return (stamp is not None and stamp[:3] == seen) or self._is_renamed(name, seen, found)

    def _is_renamed(self, name: str, seen: _Seen, found: Mapping[str, _Seen]) -> bool:
        """Whether it was answered under a name that it has no more; takes note of the new one."""
        last = self._ledger.last_with(seen.inode)
        if last is None:
            return False
        old, answered = last
        if answered[:3] != seen or found.get(old) == seen:
            return False
        try:
            with open(self._folder / name, "rb") as file:
                stamp = _stamp(file)
        except OSError:
            return False
        if stamp != answered:
            return False
        self._ledger.add(name, stamp, {"renamed_from": old})
        return True

    def _try(self, name: str, waiting: _Waiting) -> Iterator[Arrival]:
        """The image, if it is complete; else it waits on."""
        ended = self._ledger.begin(name, waiting.seen)
        try:
            with open(self._folder / name, "rb") as file:
                arrival = self._read(name, file, waiting, ended < MAX_TRIES)
        except FileNotFoundError:
            return
        except OSError as error:  # no permission yet, or too many files are open
            if not waiting.told:
                self._tell(f"{printable(name)} can't be read ({why(error)}); it is tried again")
            waiting.told = True
            now = time.monotonic()
            waiting.next_try = now + min(now - waiting.since, _MAX_PAUSE_SECONDS)
            return
        if arrival is not None:
            yield arrival
            self._waiting.pop(name, None)

    def _read(self, name: str, file: BinaryIO, waiting: _Waiting, harmless: bool) -> Arrival | None:
        """The image of an open file; None if it is not complete."""
        stamp = _stamp(file)
        if not harmless:
            return Arrival(name, stamp, f"{printable(name)} is passed over: {DEADLY}")
        content: UInt8Array | str
        try:
            content = self._load(file)
        except VitsdError as error:
            content = str(error)
            complete = waiting.since + _PATIENCE_SECONDS
            if time.monotonic() < complete:
                waiting.next_try = complete
                return None
        # Not what was seen to stay the same, or written to in the meantime: it is not complete.
        unchanged = stamp[:3] == waiting.seen and _seen(os.fstat(file.fileno())) == waiting.seen
        return Arrival(name, stamp, content) if unchanged else None


def _seen(status: os.stat_result) -> _Seen:
    return _Seen(status.st_size, status.st_mtime_ns, status.st_ino)


def _stamp(file: BinaryIO) -> Stamp:
    """Of an open file, which stands at its start again then.

    Raises:
        OSError: it can't be read.
    """
    seen = _seen(os.fstat(file.fileno()))
    checksum = zlib.crc32(file.read(_CHECKED_BYTES))
    file.seek(0)
    return Stamp(*seen, checksum)
