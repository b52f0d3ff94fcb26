"""Model files as a malicious author would write them: any spec, and the digest that fits.

Written anew here, not with the runtime's functions: those check what they write.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

SPEC = "vitsd.json"
_WEIGHTS = "model.weights.h5"


def sign(format: str, payload: bytes, spec: Any) -> Any:
    """The spec with size and digest of ``payload``; what is no object stays as it is."""
    if not isinstance(spec, dict):
        return spec
    covered = _weights(payload) if format == "keras" else payload
    digest = hashlib.sha256(covered).hexdigest()
    return {**spec, "integrity": {"size": len(covered), "sha256": digest}}


def pack(format: str, payload: bytes, spec: bytes) -> bytes:
    """A model file: the payload, and the spec's JSON where vitsd keeps it."""
    return _PACKERS[format](payload, spec)


def packed(format: str, payload: bytes, spec: Any) -> bytes:
    """:func:`pack` with a signed spec."""
    return pack(format, payload, json.dumps(sign(format, payload, spec)).encode())


def _weights(payload: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            return archive.read(_WEIGHTS)
    except Exception:  # the archive is damaged, in whatever way
        return b""


def _append_zip(payload: bytes, spec: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo(SPEC), spec)
    # Python and others look for the archive's end, and allow for what stands before it.
    return payload + out.getvalue()


def _add_member(payload: bytes, spec: bytes) -> bytes:
    out = io.BytesIO(payload)
    try:
        with zipfile.ZipFile(out, "a") as archive:
            archive.writestr(zipfile.ZipInfo(SPEC), spec)
    except Exception:  # the archive is damaged, in whatever way
        return payload
    return out.getvalue()


def _append_entry(payload: bytes, spec: bytes) -> bytes:
    """One more entry of ``ModelProto.metadata_props``, field 14: key and value."""
    entry = _field(1, SPEC.encode()) + _field(2, spec)
    return payload + _field(14, entry)


def _field(number: int, content: bytes) -> bytes:
    return _varint(8 * number + 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


_PACKERS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "tflite": _append_zip,
    "onnx": _append_entry,
    "keras": _add_member,
}
