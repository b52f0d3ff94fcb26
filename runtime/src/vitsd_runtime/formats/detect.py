"""Which kind of model stands at a path."""

from __future__ import annotations

from pathlib import Path

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats.saved_model import find_saved_model
from vitsd_runtime.spec import MAX_MODEL_BYTES
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Format, PathLike

SUFFIXES: dict[str, Format] = {".tflite": "tflite", ".onnx": "onnx", ".keras": "keras"}
"""Of model files, in lower case; a SavedModel is a folder."""


def detect_format(path: PathLike) -> Format:
    """The format of the model at ``path``, by its ending and by what stands there.

    Raises:
        UsageError: nothing is there, or it is no model.
        VitsdError: the file is empty, or too large for a model.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no model at {printable(path)}.")
    if path.is_dir():
        find_saved_model(path)
        return "saved_model"
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"{printable(path)} is not a model: expected a {', '.join(SUFFIXES)} file or a "
            "SavedModel folder."
        )
    _check_size(path)
    return SUFFIXES[suffix]


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"{printable(path)} is neither a file nor a folder.")
    size = path.stat().st_size
    if size == 0:
        raise VitsdError(f"{printable(path)} is empty (0 bytes): copy or export it again.")
    if size > MAX_MODEL_BYTES:
        raise VitsdError(
            f"{printable(path)} has {size:,} bytes; a model for small devices has at most "
            f"{MAX_MODEL_BYTES:,}."
        )


def model_bytes(path: PathLike) -> int:
    """Size in bytes of a model file, or of all files of a SavedModel."""
    path = Path(path)
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
