"""The spec in a ``.tflite`` file: an associated file in a zip appended to the flatbuffer."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
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

_OPERATOR_CODES, _SUBGRAPHS, _BUFFERS = 1, 2, 4
"""Fields of ``Model`` in TensorFlow Lite's schema.fbs."""


def find_spec(path: Path) -> FoundSpec | None:
    """The spec; None if the file carries none.

    Raises:
        VitsdError: not a TFLite file, or visibly cut off.
    """
    if is_archive(path):
        return _find_in_archive(path)
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise VitsdError(f"{printable(path)} is not a TFLite model.")
    tail = data[-MAX_JSON_BYTES:]
    if b"PK\x03\x04" in tail and SPEC_NAME.encode() in tail:
        raise VitsdError(
            f"{printable(path)} is cut off: the end of its spec is missing. Copy it again."
        )
    if _is_cut(data):
        raise VitsdError(
            f"{printable(path)} is cut off: its weights reach beyond the end of the file. Copy it "
            "again."
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
            content = read_spec_member(path, archive)
            size = min(member.header_offset for member in archive.infolist())
    except ZIP_ERRORS as error:
        raise damaged(path, error) from error
    return FoundSpec(content, size, is_plain(path, [_member(content)], size))


def _member(spec: bytes) -> Member:
    return Member(SPEC_NAME, len(spec), zlib.crc32(spec))


def _is_cut(data: bytes) -> bool:
    """Whether the flatbuffer reaches beyond the data.

    tflite-runtime does not check this, and crashes the process.
    """
    try:
        return any(
            not _fits(data, table, has_payload=field != _OPERATOR_CODES)
            for field in (_OPERATOR_CODES, _SUBGRAPHS, _BUFFERS)
            for table in _tables(data, field)
        )
    except struct.error:  # an offset led outside the data
        return True


def _tables(data: bytes, field: int) -> Iterator[int]:
    """Positions of the tables in a vector of the root table.

    One by one: the vector's length may be a lie, and the first entry outside the data raises.
    """
    position = _field(data, _u32(data, 0), field)
    if not position:
        return
    vector = position + _u32(data, position)
    for i in range(_u32(data, vector)):
        entry = vector + 4 + 4 * i
        yield entry + _u32(data, entry)


def _fits(data: bytes, table: int, has_payload: bool) -> bool:
    """Whether a table, and the vector that is its first field, lie within the data."""
    payload = _field(data, table, 0)
    if not (has_payload and payload):
        return True
    start = payload + _u32(data, payload)
    return start + 4 + _u32(data, start) <= len(data)


def _field(data: bytes, table: int, index: int) -> int:
    """Absolute position of a table's field; 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * index
    if entry >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + offset if offset else 0


def _u32(data: bytes, position: int) -> int:
    value: int = struct.unpack_from("<I", data, position)[0]
    return value
