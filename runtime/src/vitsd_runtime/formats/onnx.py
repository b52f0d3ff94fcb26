"""The spec in an ``.onnx`` file: one more entry of ``ModelProto.metadata_props`` at the end.

A protobuf message may be extended by appending fields, so the model's own bytes stay as they were.
"""

from __future__ import annotations

import os
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats.archive import SPEC_NAME, digest_file
from vitsd_runtime.spec import MAX_JSON_BYTES, Integrity

_METADATA_PROPS = b"\x72"
"""Field 14 of ``ModelProto``, length-delimited."""
_KEY, _VALUE = b"\x0a", b"\x12"
"""Fields 1 and 2 of ``StringStringEntryProto``."""


def read_spec_json(path: Path) -> bytes | None:
    """The spec's JSON; None if the file carries none. Raises VitsdError if the spec is cut off."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_JSON_BYTES - 64))
        tail = file.read()
    key = SPEC_NAME.encode()
    start = tail.rfind(_KEY + _varint(len(key)) + key + _VALUE)
    if start < 0:
        return None
    length, position = _read_varint(tail, start + 3 + len(key))
    if position + length > len(tail):
        raise VitsdError(f"{path} is cut off: the end of its spec is missing. Copy it again.")
    return tail[position : position + length]


def integrity(path: Path, size: int | None) -> Integrity:
    """Size and SHA-256 of the model without the spec."""
    return digest_file(path, size)


def write_spec_json(path: Path, content: str, size: int) -> None:
    """Append the entry to the model's ``size`` bytes."""
    os.truncate(path, size)
    with open(path, "ab") as file:
        file.write(_entry(content.encode()))


def _entry(value: bytes) -> bytes:
    key = SPEC_NAME.encode()
    entry = _KEY + _varint(len(key)) + key + _VALUE + _varint(len(value)) + value
    return _METADATA_PROPS + _varint(len(entry)) + entry


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at ``position``, and where it ends."""
    number = shift = 0
    while position < len(data) and shift < 35:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return number, position
