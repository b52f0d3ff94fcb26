"""The spec in a SavedModel folder: ``assets.extra/vitsd.json`` beside ``saved_model.pb``."""

from __future__ import annotations

from pathlib import Path

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats.archive import SPEC_NAME, digest_file
from vitsd_runtime.spec import MAX_JSON_BYTES, Integrity
from vitsd_runtime.types import PathLike

_GRAPH = "saved_model.pb"


def find_saved_model(path: PathLike) -> Path:
    """The folder with ``saved_model.pb``: ``path``, or its newest version (``path/1`` ...).

    Raises:
        UsageError: there is none.
    """
    path = Path(path)
    if (path / _GRAPH).is_file():
        return path
    versions = [
        child for child in path.iterdir() if child.name.isdigit() and (child / _GRAPH).is_file()
    ]
    if not versions:
        raise UsageError(
            f"{path} is a folder without a SavedModel (no {_GRAPH} in it or in a version folder)."
        )
    return max(versions, key=lambda child: int(child.name))


def is_saved_model(path: PathLike) -> bool:
    """Whether a folder holds a SavedModel, itself or in a version folder."""
    try:
        return bool(find_saved_model(path))
    except UsageError:
        return False


def read_spec_json(path: Path) -> bytes | None:
    """The spec's JSON; None if the folder has none. Raises VitsdError if it is too large."""
    file = find_saved_model(path) / "assets.extra" / SPEC_NAME
    if not file.is_file():
        return None
    if file.stat().st_size > MAX_JSON_BYTES:
        raise VitsdError(f"{file} is too large to be a spec.")
    return file.read_bytes()


def integrity(path: Path, size: int | None) -> Integrity:
    """Size and SHA-256 of ``saved_model.pb``; all of it, whatever ``size`` says."""
    return digest_file(find_saved_model(path) / _GRAPH)


def write_spec_json(path: Path, content: str, size: int) -> None:
    """Write the file."""
    folder = find_saved_model(path) / "assets.extra"
    folder.mkdir(exist_ok=True)
    (folder / SPEC_NAME).write_text(content, encoding="utf-8")
