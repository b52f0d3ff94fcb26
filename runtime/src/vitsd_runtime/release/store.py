"""What an agent keeps on a device: versions in folders, and a link to the one in use.

``current`` leads to ``versions/N``; to rename a new link over it is the one step that switches.
Then ``version`` is rewritten, for those who wait for a change (a link can't be waited for).
``versions/N`` holds ``model.tflite`` or ``model.onnx``, ``installed.json``, and ``confirmed`` once
it has passed every check. Whatever happens, either the old or the new version is whole and in use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats.archive import digest_file
from vitsd_runtime.release.statements import ENDINGS, MAX_VERSION, Release, ReleasedFile
from vitsd_runtime.system.files import atomic_write, locked, remove, sync_folder, write_text
from vitsd_runtime.system.json_files import read_json
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike

_log = logging.getLogger(__name__)
_MAX_JSON = 2**18
_LINK = re.compile(r"versions/([1-9]\d{0,12})")
_NAMES = {format: f"model{ending}" for format, ending in ENDINGS.items()}
_MAX_REFUSED = 16
_SPARE_BYTES = 2**20
"""That are to stay free on the disk."""


@dataclass
class State:
    """What an agent remembers; :class:`Store` keeps it in ``state.json``."""

    device: str = field(default_factory=lambda: secrets.token_hex(16))
    """A random name, by which the device takes part in roll-outs."""
    channel: str = ""
    """Of the first index; no other one is taken."""
    serial: int = 0
    """Of the newest index that was seen."""
    keys_version: int = 0
    """Of the newest statement of keys that was seen."""
    highest: int = 0
    """Version that ever passed every check here."""
    refused: dict[str, str] = field(default_factory=dict)
    """Versions that failed here, and why: they are not tried again."""
    last_check: int = 0
    """When an index was last accepted, in seconds since 1970."""
    last_change: int = 0
    """When another version was last put to use."""
    last_error: str = ""
    """Of the last try; empty if there was none."""


@dataclass(frozen=True)
class Installed:
    """A version in a store."""

    version: int
    name: str
    """Of the model's file."""
    size: int
    sha256: str
    previous: int
    """The version that was in use before; 0: none."""
    folder: Path
    confirmed: bool

    @property
    def path(self) -> Path:
        """The model's file."""
        return self.folder / self.name

    @property
    def intact(self) -> bool:
        """Whether the file is what was installed."""
        with contextlib.suppress(OSError):
            return self.path.is_file() and digest_file(self.path) == (self.size, self.sha256)
        return False


class Store:
    """The folder of one agent; use with ``with``, which keeps other agents away.

    Args:
        folder: made if missing.

    Raises:
        UsageError: something else stands there.
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(os.path.realpath(folder))
        self._link, self._versions = self.folder / "current", self.folder / "versions"
        self._parts, self._state = self.folder / "downloads", self.folder / "state.json"
        self._notice = self.folder / "version"
        self._stack = contextlib.ExitStack()
        self.state = State()

    def __enter__(self) -> Store:
        """Itself, locked, with its state.

        Raises:
            UsageError: something else stands there, or others can write into it.
            VitsdError: another agent is at work in it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"{printable(self.folder)} can't be made a folder.") from error
        self._check()
        self._versions.mkdir(exist_ok=True)
        self._parts.mkdir(exist_ok=True)
        try:
            self._stack.enter_context(locked(self.folder))
        except BlockingIOError as error:
            raise VitsdError(
                f"Another vitsd-agent is at work in {printable(self.folder)}."
            ) from error
        self.state = self._load()
        return self

    def __exit__(self, *_: Any) -> None:
        """Let others in."""
        self._stack.close()

    def look(self) -> None:
        """Take the state as it was last saved, also while another agent is at work.

        Raises:
            UsageError: something else stands there, or others can write into it.
        """
        self._check()
        self.state = self._load()

    def _load(self) -> State:
        """The state as it was last saved; a new one where it is lost."""
        state = State()
        if os.path.lexists(self._state):
            try:
                content = read_json(self._state, "an agent's state", _MAX_JSON)
                state = _state_of(content)
            except VitsdError as error:
                _log.warning("%s The agent begins anew, without what it knew of replays.", error)
        current = self.current()
        if current is not None and current.confirmed:
            state.highest = max(state.highest, current.version)
        return state

    def save(self) -> None:
        """Write the state, and what is in use, to ``state.json``."""
        write_text(self._state, json.dumps(self.report(), indent=1) + "\n")

    def report(self) -> dict[str, Any]:
        """The state, with ``version``, ``sha256``, ``model`` and ``previous`` of what is in use."""
        current, previous = self.current(), self.previous()
        return {
            "version": current and current.version,
            "previous": previous and previous.version,
            "model": str(self._link / current.name) if current else None,
            "sha256": current and current.sha256,
            **dataclasses.asdict(self.state),
        }

    def current(self) -> Installed | None:
        """The version in use; None if there is none."""
        try:
            found = _LINK.fullmatch(os.readlink(self._link))
        except OSError:
            return None
        return self.version(int(found[1])) if found else None

    def previous(self) -> Installed | None:
        """The version that was in use before; None if there is none."""
        current = self.current()
        return self.version(current.previous) if current else None

    def version(self, number: int) -> Installed | None:
        """A version that is here; None if it is not."""
        folder = self._versions / str(number)
        note = folder / "installed.json"
        if not note.is_file():  # a pipe would wait for somebody
            return None
        try:
            content = read_json(note, "of an agent", _MAX_JSON)
            values = {name: content[name] for name in ("name", "size", "sha256", "previous")}
        except (VitsdError, TypeError, KeyError):
            return None
        if [type(value) for value in values.values()] != [str, int, str, int]:
            return None
        if values["name"] not in _NAMES.values():
            return None
        confirmed = (folder / "confirmed").exists()
        return Installed(**values, version=number, folder=folder, confirmed=confirmed)

    def part(self, file: ReleasedFile) -> Path:
        """Where a file is to be downloaded, after room was made for it.

        What is here already of the same content is copied.

        Raises:
            VitsdError: the disk has no room.
        """
        path = self._parts / file.sha256
        for other in self._parts.iterdir():
            if other != path or other.is_symlink() or not other.is_file():
                remove(other)
        here = path.stat().st_size if path.is_file() else 0
        free = shutil.disk_usage(self.folder).free
        if free < file.size - here + _SPARE_BYTES:
            raise VitsdError(
                f"The disk of {printable(self.folder)} has {free:,} bytes left; the new model "
                f"needs {file.size:,}."
            )
        for number in self._numbers():
            same = self.version(number)
            if same and same.sha256 == file.sha256 and same.intact:
                shutil.copyfile(same.path, path)
        return path

    def add(self, release: Release, file: ReleasedFile, part: Path) -> Installed:
        """Put a downloaded file into the folder of its version; it is not in use yet."""
        current = self.current()
        # In the place of a version that is damaged, its previous one stays the previous one.
        same = current is not None and current.version == release.version
        before = current and (current.previous if same else current.version)
        name = _NAMES[file.format]
        content = {"name": name, "size": file.size, "sha256": file.sha256, "previous": before or 0}
        folder = self._versions / str(release.version)
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            os.replace(part, temporary / name)
            (temporary / "installed.json").write_text(json.dumps(content))
        return Installed(
            release.version, name, file.size, file.sha256, before or 0, folder, confirmed=False
        )

    def switch(self, to: Installed | None) -> None:
        """Put a version to use, in one step; None: none."""
        if to is None:
            remove(self._link)
        else:
            new = self.folder / ".current"
            remove(new)
            os.symlink(f"versions/{to.version}", new)
            os.replace(new, self._link)
            self.state.refused.pop(str(to.version), None)
        sync_folder(self.folder)
        self.announce()

    def announce(self) -> None:
        """Let ``version`` say which version is in use, if it does not."""
        current = self.current()
        text = f"{current.version if current else 0}\n"
        if not self._notice.is_file() or self._notice.read_bytes() != text.encode():
            write_text(self._notice, text)

    def confirm(self, installed: Installed) -> None:
        """Note that a version passed every check."""
        (installed.folder / "confirmed").touch()
        sync_folder(installed.folder)
        self.state.highest = max(self.state.highest, installed.version)

    def refuse(self, installed: Installed, reason: str) -> None:
        """Note that a version failed here."""
        refused = {**self.state.refused, str(installed.version): reason}
        self.state.refused = dict(list(refused.items())[-_MAX_REFUSED:])
        self.save()

    def tidy(self) -> None:
        """Remove all but the version in use and the one before."""
        kept = {str(found.version) for found in (self.current(), self.previous()) if found}
        for folder in self._versions.iterdir():
            if folder.name not in kept:
                remove(folder)

    def _check(self) -> None:
        folders, files = (self._versions, self._parts), (self._state, self._notice)
        for path in (*folders, *files):
            if path.is_symlink():
                raise UsageError(f"{printable(path)} is a link, which an agent does not follow.")
            if path.exists() and not (path.is_dir() if path in folders else path.is_file()):
                raise UsageError(f"{printable(path)} is not an agent's: name another folder.")
        if os.path.lexists(self._link) and not self._link.is_symlink():
            raise UsageError(
                f"{printable(self._link)} is not an agent's link: name another folder."
            )
        for path in (self.folder, *folders):
            if path.exists() and path.stat().st_mode & 0o002:
                raise UsageError(
                    f"Everybody can write into {printable(path)}: chmod o-w it, or name another "
                    "folder."
                )

    def _numbers(self) -> Iterator[int]:
        for folder in self._versions.iterdir():
            if folder.name.isdecimal() and folder.name.isascii():
                yield int(folder.name)


def _state_of(content: Any) -> State:
    """A state from its JSON; what is not as it was written is left out.

    Raises:
        VitsdError: it is no state at all.
    """
    if not isinstance(content, dict):
        raise VitsdError("state.json holds no agent's state.")
    state = State()
    for entry in dataclasses.fields(State):
        value: Any = content.get(entry.name)
        good = type(value) is type(getattr(state, entry.name))
        if good and (type(value) is not int or 0 <= value <= MAX_VERSION):
            setattr(state, entry.name, value)
    return state
