"""The spec in an ``.onnx`` file: one more entry of ``ModelProto.metadata_props`` at the end.

A protobuf message may be extended by appending fields, so the model's own bytes stay as they were.
"""

from __future__ import annotations

import os
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats.archive import SPEC_NAME, FoundSpec, digest_file
from vitsd_runtime.spec import MAX_JSON_BYTES, Integrity
from vitsd_runtime.structure.graph import FlawError, require
from vitsd_runtime.structure.protobuf import read_varint, varint
from vitsd_runtime.system.text import printable

_METADATA_PROPS = b"\x72"
"""Field 14 of ``ModelProto``, length-delimited."""
_KEY, _VALUE = b"\x0a", b"\x12"
"""Fields 1 and 2 of ``StringStringEntryProto``."""


def find_spec(path: Path) -> FoundSpec | None:
    """The spec; None if the file carries none. Raises VitsdError if the spec is cut off."""
    with open(path, "rb") as file:
        start = file.seek(max(0, path.stat().st_size - MAX_JSON_BYTES - 64))
        tail = file.read()
    key = SPEC_NAME.encode()
    found = tail.rfind(_KEY + varint(len(key)) + key + _VALUE)
    if found < 0:
        return None
    try:
        length, position = read_varint(tail, found + 3 + len(key), len(tail))
        require(position + length <= len(tail), "its spec has no end")
    except FlawError as error:
        raise VitsdError(
            f"{printable(path)} is cut off: the end of its spec is missing. Copy it again."
        ) from error
    content = tail[position : position + length]
    entry = _entry(content)
    begin = max(0, position + length - len(entry))
    return FoundSpec(content, start + begin, tail[begin:] == entry)


def integrity(path: Path, size: int | None) -> Integrity:
    """Size and SHA-256 of the model without the spec."""
    return Integrity(*digest_file(path, size))


def write_spec_json(path: Path, content: str, size: int) -> None:
    """Append the entry to the model's ``size`` bytes."""
    os.truncate(path, size)
    with open(path, "ab") as file:
        file.write(_entry(content.encode()))


def _entry(value: bytes) -> bytes:
    key = SPEC_NAME.encode()
    entry = _KEY + varint(len(key)) + key + _VALUE + varint(len(value)) + value
    return _METADATA_PROPS + varint(len(entry)) + entry
