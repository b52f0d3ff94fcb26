"""The spec in a SavedModel folder: ``assets.extra/vitsd.json`` beside ``saved_model.pb``."""

from __future__ import annotations

from pathlib import Path

from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats.archive import SPEC_NAME, FoundSpec, digest_file
from vitsd_runtime.spec import MAX_JSON_BYTES, Integrity
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike

_GRAPH = "saved_model.pb"
_SPEC = f"assets.extra/{SPEC_NAME}"


def find_saved_model(path: PathLike) -> Path:
    """The folder with ``saved_model.pb``: ``path``, or its newest version (``path/1`` ...).

    Raises:
        UsageError: there is none.
    """
    path = Path(path)
    if (path / _GRAPH).is_file():
        return path
    versions = [
        child for child in path.iterdir() if child.name.isdecimal() and (child / _GRAPH).is_file()
    ]
    if not versions:
        raise UsageError(
            f"{printable(path)} is a folder without a SavedModel (no {_GRAPH} in it or in a "
            "version folder)."
        )
    return max(versions, key=lambda child: int(child.name))


def find_graph(path: PathLike) -> Path:
    """``saved_model.pb`` of the version that :func:`find_saved_model` finds."""
    return find_saved_model(path) / _GRAPH


def is_saved_model(path: PathLike) -> bool:
    """Whether a folder holds a SavedModel, itself or in a version folder."""
    try:
        return bool(find_saved_model(path))
    except UsageError:
        return False


def find_spec(path: Path) -> FoundSpec | None:
    """The spec; None if the folder has none."""
    folder = find_saved_model(path)
    file = folder / _SPEC
    if not file.is_file():
        return None
    with open(file, "rb") as opened:
        content = opened.read(MAX_JSON_BYTES + 1)  # whoever parses it refuses more
    return FoundSpec(content, (folder / _GRAPH).stat().st_size, alone=True)


def integrity(path: Path, size: int | None) -> Integrity:
    """Size and SHA-256 of ``saved_model.pb``, and SHA-256 of the other files but the spec."""
    folder = find_saved_model(path)
    files = {
        file.relative_to(folder).as_posix(): digest_file(file)[1]
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file not in (folder / _GRAPH, folder / _SPEC)
    }
    return Integrity(*digest_file(folder / _GRAPH), files=files)


def write_spec_json(path: Path, content: str, size: int) -> None:
    """Write the file."""
    file = find_saved_model(path) / _SPEC
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content.encode())
