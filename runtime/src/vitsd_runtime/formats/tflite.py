"""The spec in a ``.tflite`` file: an associated file in a zip appended to the flatbuffer."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats.archive import (
    SPEC_NAME,
    ZIP_ERRORS,
    FoundSpec,
    Member,
    damaged,
    digest_file,
    headers,
    is_archive,
    is_plain,
    open_archive,
    read_spec_member,
)
from vitsd_runtime.spec import MAX_JSON_BYTES, Integrity
from vitsd_runtime.system.text import printable


def find_spec(path: Path) -> FoundSpec | None:
    """The spec; None if the file carries none.

    Raises:
        VitsdError: not a TFLite file, or cut off within its spec. (Whether the flatbuffer itself
            is whole, :mod:`vitsd_runtime.structure` proves.)
    """
    if is_archive(path):
        return _find_in_archive(path)
    with open(path, "rb") as file:
        start = file.read(8)
        file.seek(max(0, path.stat().st_size - MAX_JSON_BYTES))
        tail = file.read()
    if start[4:] != b"TFL3":
        raise VitsdError(f"{printable(path)} is not a TFLite model.")
    if b"PK\x03\x04" in tail and SPEC_NAME.encode() in tail:
        raise VitsdError(
            f"{printable(path)} is cut off: the end of its spec is missing. Copy it again."
        )
    return None


def integrity(path: Path, size: int | None) -> Integrity:
    """Size and SHA-256 of the flatbuffer."""
    return Integrity(*digest_file(path, size))


def write_spec_json(path: Path, content: str, size: int) -> None:
    """Append the zip with the spec to the flatbuffer's ``size`` bytes."""
    spec = content.encode()
    (_, header), (_, directory) = headers([_member(spec)], start=size)
    os.truncate(path, size)
    with open(path, "ab") as file:
        file.write(header + spec + directory)


def _find_in_archive(path: Path) -> FoundSpec | None:
    try:
        with open_archive(path) as archive:
            if SPEC_NAME not in archive.namelist():
                return None
            content = read_spec_member(archive)
            size = min(member.header_offset for member in archive.infolist())
    except ZIP_ERRORS as error:
        raise damaged(path, error) from error
    return FoundSpec(content, size, is_plain(path, [_member(content)], size))


def _member(spec: bytes) -> Member:
    return Member(SPEC_NAME, len(spec), zlib.crc32(spec))
