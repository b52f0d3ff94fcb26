"""Which files of a folder are images: one rule for training and for devices."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vitsd_runtime.errors import UsageError
from vitsd_runtime.images.kinds import ENDINGS, HEAD_BYTES, HEIC_ADVICE, RAW_ENDINGS, image_kind
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike

_ACCEPTED = f"accepted: {', '.join(ENDINGS)}"
_HIDDEN = frozenset(
    (
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini"),  # Windows
        *("$recycle.bin", "recycler", "system volume information", "found.000"),
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@__thumb", "@tmp"),  # network storage
        "lost+found",
    )
)
"""What systems put into folders, beside names with a dot at their start; lower-case."""
_NOT_OPENED = frozenset(
    (
        *RAW_ENDINGS,
        # Half an image, or the copy of one.
        *(".part", ".partial", ".crdownload", ".download", ".tmp", ".temp"),
        *(".bak", ".old", ".orig"),
    )
)
"""Endings of files that may begin like an image and yet are not meant as one."""
_HEIC = {".heic", ".heif", ".hif"}
_NAMED = 3
"""Endings or paths that a message names."""


@dataclass(frozen=True)
class ImageScan:
    """What a folder holds, its subfolders included."""

    files: list[Path] = field(default_factory=list)
    """The images, sorted by path."""
    left_out: collections.Counter[str] = field(default_factory=collections.Counter)
    """How many visible files are no images, by ending in lower case, "" where there is none."""
    unreadable: list[Path] = field(default_factory=list)
    """What can't be looked at: folders and files without permission, links that lead nowhere, and
    what is neither file nor folder (pipes, devices), which is never opened. Sorted."""

    def describe(self) -> str | None:
        """What is not among the images, in one line; None where nothing is missing."""
        parts = []
        if self.left_out:
            common = self.left_out.most_common(_NAMED)
            counted = [f"{count:,} {_ending(ending)}" for ending, count in common]
            if others := sum(self.left_out.values()) - sum(count for _, count in common):
                counted.append(f"{others:,} others")
            advice = f"; {HEIC_ADVICE}" if self.left_out.keys() & _HEIC else ""
            parts.append(f"{', '.join(counted)} left out ({_ACCEPTED}{advice})")
        if self.unreadable:
            named = [printable(path) for path in self.unreadable[:_NAMED]]
            more = ", ..." if len(self.unreadable) > _NAMED else ""
            parts.append(f"{len(self.unreadable):,} can't be read: {', '.join(named)}{more}")
        return "; ".join(parts) or None


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system or a program, not to the photos."""
    return name.startswith(".") or name.lower() in _HIDDEN


def scan_images(folder: PathLike) -> ImageScan:
    """Find the images in a folder and its subfolders.

    An image is a file with one of :data:`~vitsd_runtime.images.kinds.ENDINGS`, or one with no or
    an unknown ending that begins as an image does. What :func:`is_hidden` names is passed over.
    Links are followed, but for those to a folder above; a folder is read once, however many links
    lead to it.

    Raises:
        OSError: the folder itself can't be read.
    """
    os.listdir(folder)  # what can't be read further below is reported, not raised
    scan = ImageScan()
    for entry in _entries(str(folder), scan.unreadable):
        path = Path(entry.path)
        try:
            if not entry.is_file():
                scan.unreadable.append(path)
            elif _is_image(path):
                scan.files.append(path)
            else:
                scan.left_out[path.suffix.lower()] += 1
        except OSError:
            scan.unreadable.append(path)
    for paths in (scan.files, scan.unreadable):  # as paths are ordered, but they are slow at it
        paths.sort(key=lambda path: os.path.normcase(path).split(os.sep))
    return scan


def find_images(folder: PathLike) -> ImageScan:
    """:func:`scan_images` of a folder that must hold images.

    Raises:
        UsageError: there is none; the message says what there is.
        OSError: the folder can't be read.
    """
    scan = scan_images(folder)
    if not scan.files:
        there = scan.describe() or f"it holds no files ({_ACCEPTED})"
        raise UsageError(f"No images in {printable(folder)}: {there}.")
    return scan


def _entries(root: str, unreadable: list[Path]) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder that is neither hidden nor a folder."""
    # A link to a folder above leads around in a circle, by way of everything beside this folder.
    seen: set[tuple[int, int]] = set()
    with contextlib.suppress(OSError):
        seen.update(map(_identity, Path(root).resolve().parents))
    folders, links = [root], collections.deque[str]()
    while folders or links:
        # Links last, so that a folder that can be reached in two ways is found under its own path.
        folder = folders.pop() if folders else links.popleft()
        try:
            identity = _identity(folder)
            with os.scandir(folder) as opened:
                entries = [entry for entry in opened if not is_hidden(entry.name)]
        except OSError:
            unreadable.append(Path(folder))
            continue
        if identity in seen:
            continue
        seen.add(identity)
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not _is_folder(entry):
                yield entry
            else:
                (links if entry.is_symlink() else folders).append(entry.path)


def _identity(folder: PathLike) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_image_name(name: str) -> bool | None:
    """Whether a file of this name is taken for an image; None: its first bytes say so."""
    ending = os.path.splitext(name)[1].lower()
    if ending in ENDINGS:
        return True
    return False if ending in _NOT_OPENED or name.endswith("~") else None


def _is_image(path: Path) -> bool:
    by_name = is_image_name(path.name)
    if by_name is not None:
        return by_name
    with open(path, "rb") as file:
        return image_kind(file.read(HEAD_BYTES)) is not None


def _ending(ending: str) -> str:
    return printable(ending, limit=20) or "without ending"
