"""The spec in a ``.tflite`` file: an associated file in a zip appended to the flatbuffer."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats.archive import SPEC_NAME, digest_file, read_spec_member
from vitsd_runtime.spec import MAX_JSON_BYTES, Integrity

_OPERATOR_CODES, _SUBGRAPHS, _BUFFERS = 1, 2, 4
"""Fields of ``Model`` in TensorFlow Lite's schema.fbs."""


def read_spec_json(path: Path) -> bytes | None:
    """The spec's JSON; None if the file carries none.

    Raises:
        VitsdError: not a TFLite file, or visibly cut off.
    """
    if zipfile.is_zipfile(path):
        return read_spec_member(path)
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise VitsdError(f"{path} is not a TFLite model.")
    tail = data[-MAX_JSON_BYTES:]
    if b"PK\x03\x04" in tail and SPEC_NAME.encode() in tail:
        raise VitsdError(f"{path} is cut off: the end of its spec is missing. Copy it again.")
    if _is_cut(data):
        raise VitsdError(
            f"{path} is cut off: its weights reach beyond the end of the file. Copy it again."
        )
    return None


def integrity(path: Path, size: int | None) -> Integrity:
    """Size and SHA-256 of the flatbuffer."""
    return digest_file(path, size)


def write_spec_json(path: Path, content: str, size: int) -> None:
    """Append the zip with the spec to the flatbuffer's ``size`` bytes."""
    os.truncate(path, size)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(SPEC_NAME, content)


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
