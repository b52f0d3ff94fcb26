"""Model files and the spec inside them.

Where the spec lives, so that one copied file is enough on the device:

========== =================================================================================================
``.tflite`` ``vitsd.json`` in a zip appended to the flatbuffer, the associated-file format of TFLite Metadata
``.onnx``   ``metadata_props["vitsd.json"]``, the last field of the file; onnxruntime shows it as model metadata
SavedModel  ``assets.extra/vitsd.json`` beside ``saved_model.pb``
``.keras``  ``vitsd.json`` beside ``config.json`` in the archive
========== =================================================================================================

In each the spec holds size and SHA-256 of the model itself, which is what stands before the spec in ``.tflite`` and
``.onnx``, ``saved_model.pb``, or the archive's ``model.weights.h5``.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from pathlib import Path

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.spec import MAX_JSON_BYTES, ModelSpec
from vitsd_runtime.system.files import replacing

SPEC_NAME = "vitsd.json"
FORMATS = ("tflite", "onnx", "saved_model", "keras")
_KERAS_WEIGHTS = "model.weights.h5"
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What the standard library raises for damaged, encrypted or incomplete archives."""


def detect_format(path: str | os.PathLike) -> str:
    """``tflite``, ``onnx``, ``saved_model`` or ``keras``, by the name's ending and what stands there.

    Raises:
        UsageError: nothing is there, or it is none of these.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no model at {path}.")
    if path.is_dir():
        saved_model_folder(path)
        return "saved_model"
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("tflite", "onnx", "keras"):
        raise UsageError(
            f"{path} is not a model: expected a .tflite, .onnx or .keras file or a SavedModel folder."
        )
    if path.stat().st_size == 0:
        raise VitsdError(f"{path} is empty (0 bytes): copy or export it again.")
    return kind


def saved_model_folder(path: str | os.PathLike) -> Path:
    """The folder that holds ``saved_model.pb``: ``path`` itself, or its newest version (``path/1``, ``path/2`` ...)."""
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        return path
    versions = [
        child
        for child in path.iterdir()
        if child.name.isdigit() and (child / "saved_model.pb").is_file()
    ]
    if not versions:
        raise UsageError(
            f"{path} is a folder without a SavedModel (no saved_model.pb in it or in a version folder)."
        )
    return max(versions, key=lambda child: int(child.name))


def is_saved_model(path: str | os.PathLike) -> bool:
    """Whether a folder holds a SavedModel, itself or in a version folder."""
    try:
        return bool(saved_model_folder(path))
    except UsageError:
        return False


def read_spec(path: str | os.PathLike, verify: bool = True) -> ModelSpec | None:
    """The spec inside a model file or folder; None if it carries none.

    Args:
        path: a ``.tflite``, ``.onnx`` or ``.keras`` file or a SavedModel folder.
        verify: also check the model's size and SHA-256 against the spec.

    Raises:
        UsageError: no such model.
        VitsdError: the file is cut off or damaged, or its spec is unusable.
    """
    path = Path(path)
    kind = detect_format(path)
    raw = _READERS[kind](path)
    if raw is None:
        return None
    spec = ModelSpec.from_json(raw)
    if verify and spec.integrity:
        _verify(path, kind, spec.integrity)
    return spec


def check_complete(path: str | os.PathLike) -> None:
    """Raise VitsdError if the file is visibly cut off, whether or not it carries a spec."""
    _READERS[detect_format(path)](Path(path))


def write_spec(path: str | os.PathLike, spec: ModelSpec) -> ModelSpec:
    """Put ``spec`` into the model at ``path``, replacing one that is there; returns it with its integrity filled in.

    The file is changed in place: call it on a temporary path (:func:`vitsd_runtime.system.files.replacing`).
    """
    path = Path(path)
    kind = detect_format(path)
    if kind == "keras":
        return _write_keras_spec(path, spec)
    if kind == "saved_model":
        folder = saved_model_folder(path)
        spec = spec.replace(integrity=_digest(folder / "saved_model.pb"))
        (folder / "assets.extra").mkdir(exist_ok=True)
        (folder / "assets.extra" / SPEC_NAME).write_text(spec.to_json(), encoding="utf-8")
        return spec
    old = _READERS[kind](path)
    if old is not None:
        os.truncate(path, ModelSpec.from_json(old).integrity["size"])
    spec = spec.replace(integrity=_digest(path))
    if kind == "tflite":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(SPEC_NAME, spec.to_json())
    else:
        with open(path, "ab") as file:
            file.write(_onnx_metadata(spec.to_json().encode()))
    return spec


def _digest(path: Path, size: int | None = None) -> dict:
    """Size and SHA-256 of a file's first ``size`` bytes."""
    size = path.stat().st_size if size is None else size
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        left = size
        while left and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
    return {"size": size, "sha256": digest.hexdigest()}


def _verify(path: Path, kind: str, integrity: dict) -> None:
    expected_size, expected_hash = integrity.get("size"), integrity.get("sha256")
    if kind == "keras":
        with zipfile.ZipFile(path) as archive:
            found = _digest_member(archive)
    else:
        file = saved_model_folder(path) / "saved_model.pb" if kind == "saved_model" else path
        size = file.stat().st_size
        if isinstance(expected_size, int) and size < expected_size:
            raise VitsdError(
                f"{path} is cut off: {size} bytes instead of {expected_size}. Copy it again."
            )
        found = _digest(file, None if kind == "saved_model" else expected_size)
    if found != {"size": expected_size, "sha256": expected_hash}:
        raise VitsdError(
            f"{path} is damaged or was changed after its export: its SHA-256 is not the one in its spec. Copy or export "
            "it again; if the change was meant, load it with verify=False (--no-verify)."
        )


# --- .tflite ---------------------------------------------------------------------------------------------------------


def _read_zip_spec(path: Path) -> bytes | None:
    try:
        with zipfile.ZipFile(path) as archive:
            if SPEC_NAME not in archive.namelist():
                return None
            with _open_member(archive, SPEC_NAME) as member:
                content = member.read(
                    MAX_JSON_BYTES + 1
                )  # not what the archive says about its size, which may be a lie
    except PermissionError:
        raise
    except (*_ZIP_ERRORS, OSError) as error:
        raise VitsdError(f"{path} is damaged or cut off ({error}): copy it again.") from error
    if len(content) > MAX_JSON_BYTES:
        raise VitsdError(f"{path}: its {SPEC_NAME} is too large to be a spec.")
    return content


def _open_member(archive: zipfile.ZipFile, name: str):
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(
            f"{name} is packed in a way that vitsd does not use"
        )  # such as bz2 bombs
    return archive.open(name)


def _read_tflite_spec(path: Path) -> bytes | None:
    if zipfile.is_zipfile(path):
        return _read_zip_spec(path)
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise VitsdError(f"{path} is not a TFLite model.")
    if b"PK\x03\x04" in data[-MAX_JSON_BYTES:] and SPEC_NAME.encode() in data[-MAX_JSON_BYTES:]:
        raise VitsdError(f"{path} is cut off: the end of its spec is missing. Copy it again.")
    if _flatbuffer_is_cut(data):
        raise VitsdError(
            f"{path} is cut off: its weights reach beyond the end of the file. Copy it again."
        )
    return None


def _flatbuffer_is_cut(data: bytes) -> bool:
    """Whether the buffers of a TFLite model (schema.fbs, ``Model.buffers``) reach beyond the data.

    tflite-runtime does not check this and crashes the process.
    """

    def u32(position):
        return struct.unpack_from("<I", data, position)[0]

    def field(table, index):  # absolute position of a table's field, 0 if absent
        vtable = table - struct.unpack_from("<i", data, table)[0]
        entry = 4 + 2 * index
        if entry >= struct.unpack_from("<H", data, vtable)[0]:
            return 0
        offset = struct.unpack_from("<H", data, vtable + entry)[0]
        return table + offset if offset else 0

    try:
        for vector_index in (1, 2, 4):  # operator codes, subgraphs, buffers
            position = field(u32(0), vector_index)
            if not position:
                continue
            vector = position + u32(position)
            for i in range(u32(vector)):
                table = vector + 4 + 4 * i
                table += u32(table)
                payload = field(table, 0)
                if vector_index != 1 and payload:
                    start = payload + u32(payload)
                    if start + 4 + u32(start) > len(data):
                        return True
    except struct.error:  # an offset led outside the data
        return True
    return False


# --- .onnx -----------------------------------------------------------------------------------------------------------
# A protobuf message may be extended by appending fields, so the spec is one more ModelProto.metadata_props (field 14)
# entry at the end, and the model's own bytes stay as they were.


def _onnx_metadata(value: bytes) -> bytes:
    key = SPEC_NAME.encode()
    entry = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
    return b"\x72" + _varint(len(entry)) + entry


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_onnx_spec(path: Path) -> bytes | None:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_JSON_BYTES - 64))
        tail = file.read()
    key = SPEC_NAME.encode()
    start = tail.rfind(b"\x0a" + _varint(len(key)) + key + b"\x12")
    if start < 0:
        return None
    position = start + 3 + len(key)
    length = shift = 0
    while position < len(tail) and shift < 35:
        byte = tail[position]
        position += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if position + length > len(tail):
        raise VitsdError(f"{path} is cut off: the end of its spec is missing. Copy it again.")
    return tail[position : position + length]


# --- SavedModel and .keras -------------------------------------------------------------------------------------------


def _read_saved_model_spec(path: Path) -> bytes | None:
    file = saved_model_folder(path) / "assets.extra" / SPEC_NAME
    if not file.is_file():
        return None
    if file.stat().st_size > MAX_JSON_BYTES:
        raise VitsdError(f"{file} is too large to be a spec.")
    return file.read_bytes()


def _read_keras_spec(path: Path) -> bytes | None:
    if not zipfile.is_zipfile(path):
        raise VitsdError(
            f"{path} is damaged or cut off: it is not a complete .keras archive. Copy it again."
        )
    return _read_zip_spec(path)


def _digest_member(archive: zipfile.ZipFile) -> dict:
    digest = hashlib.sha256()
    size = 0
    try:
        with _open_member(archive, _KERAS_WEIGHTS) as member:
            while chunk := member.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except _ZIP_ERRORS as error:
        raise VitsdError(f"The .keras archive is damaged ({error}): copy it again.") from error
    return {"size": size, "sha256": digest.hexdigest()}


def _write_keras_spec(path: Path, spec: ModelSpec) -> ModelSpec:
    with zipfile.ZipFile(path) as archive:
        spec = spec.replace(integrity=_digest_member(archive))
        has_spec = SPEC_NAME in archive.namelist()
    if has_spec:  # zip can't replace a member: copy the others
        with (
            replacing(path) as copy,
            zipfile.ZipFile(path) as source,
            zipfile.ZipFile(copy, "w") as target,
        ):
            for member in source.infolist():
                if member.filename != SPEC_NAME:
                    target.writestr(member, source.read(member))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(SPEC_NAME, spec.to_json())
    return spec


_READERS = {
    "tflite": _read_tflite_spec,
    "onnx": _read_onnx_spec,
    "saved_model": _read_saved_model_spec,
    "keras": _read_keras_spec,
}
