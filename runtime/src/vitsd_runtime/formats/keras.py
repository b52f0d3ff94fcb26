"""The spec in a ``.keras`` archive: ``vitsd.json`` beside ``config.json``."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats.archive import (
    SPEC_NAME,
    ZIP_ERRORS,
    FoundSpec,
    Member,
    damaged,
    digest,
    headers,
    is_archive,
    is_plain,
    open_archive,
    open_member,
    read_spec_member,
)
from vitsd_runtime.spec import MAX_MODEL_BYTES, Integrity
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.system.text import printable

WEIGHTS = "model.weights.h5"
_OTHERS = ("metadata.json", "config.json")
"""Members that Keras writes beside the weights; vitsd does not read them."""


def find_spec(path: Path) -> FoundSpec | None:
    """The spec; None if the archive has none.

    Raises:
        VitsdError: the archive is damaged, or holds what no model has.
    """
    if not is_archive(path):
        raise VitsdError(
            f"{printable(path)} is damaged or cut off: it is not a complete .keras archive. Copy "
            "it again."
        )
    try:
        with open_archive(path) as archive:
            names = archive.namelist()
            if SPEC_NAME not in names:
                return None
            _check_names(path, names)
            content = read_spec_member(archive)
            members = [Member(m.filename, m.file_size, m.CRC) for m in archive.infolist()]
            return FoundSpec(content, archive.getinfo(WEIGHTS).file_size, is_plain(path, members))
    except (*ZIP_ERRORS, zipfile.LargeZipFile) as error:
        raise damaged(path, error) from error


def integrity(path: Path, size: int | None) -> Integrity:
    """Size and SHA-256 of the unpacked weights, and SHA-256 of what stands beside them."""
    try:
        with open_archive(path) as archive:
            with open_member(archive, WEIGHTS) as member:
                weights = digest(member)
            others = [name for name in archive.namelist() if name in _OTHERS]
            files = {}
            for name in others:
                with open_member(archive, name) as member:
                    files[name] = digest(member)[1]
    except ZIP_ERRORS as error:
        raise damaged(path, error) from error
    return Integrity(*weights, files=files)


def read_weights(path: Path, max_bytes: int) -> bytes:
    """The unpacked HDF5 file of the weights.

    Raises:
        VitsdError: it is larger than ``max_bytes``, or the archive is damaged.
    """
    try:
        with open_archive(path) as archive, open_member(archive, WEIGHTS) as member:
            content = member.read(max_bytes + 1)
    except ZIP_ERRORS as error:
        raise damaged(path, error) from error
    if len(content) > max_bytes:
        raise VitsdError(
            f"{printable(path)}: its {WEIGHTS} is larger than the {max_bytes:,} bytes that its "
            "architecture takes."
        )
    return content


def write_spec_json(path: Path, content: str, size: int) -> None:
    """Write the archive anew with the spec as its last member, nothing in it packed."""
    spec = content.encode()
    with atomic_write(path) as copy, open_archive(path) as source, open(copy, "wb") as target:
        kept = [member for member in source.infolist() if member.filename != SPEC_NAME]
        if sum(member.file_size for member in kept) > 2 * MAX_MODEL_BYTES:
            raise VitsdError(f"{printable(path)} is too large for a model.")
        members = [Member(member.filename, member.file_size, member.CRC) for member in kept]
        members.append(Member(SPEC_NAME, len(spec), zlib.crc32(spec)))
        *locals_, (_, directory) = headers(members)
        for member, (_, header) in zip(kept, locals_):
            target.write(header)
            with open_member(source, member.filename) as unpacked:
                shutil.copyfileobj(unpacked, target)
        target.write(locals_[-1][1] + spec + directory)


def _check_names(path: Path, names: list[str]) -> None:
    known = (*_OTHERS, WEIGHTS, SPEC_NAME)
    if unknown := [name for name in names if name not in known]:
        raise VitsdError(
            f"{printable(path)} holds {printable(unknown[0])}, which is no part of a model of "
            "vitsd."
        )
    if len(set(names)) < len(names):
        raise VitsdError(f"{printable(path)} holds a member twice: it is damaged.")
