"""The spec in a ``.keras`` archive: ``vitsd.json`` beside ``config.json``."""

from __future__ import annotations

import zipfile
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats.archive import (
    SPEC_NAME,
    ZIP_ERRORS,
    digest,
    open_member,
    read_spec_member,
)
from vitsd_runtime.spec import Integrity
from vitsd_runtime.system.files import atomic_write

_WEIGHTS = "model.weights.h5"


def read_spec_json(path: Path) -> bytes | None:
    """The spec's JSON; None if the archive has none. Raises VitsdError if it is damaged."""
    if not zipfile.is_zipfile(path):
        raise VitsdError(
            f"{path} is damaged or cut off: it is not a complete .keras archive. Copy it again."
        )
    return read_spec_member(path)


def integrity(path: Path, size: int | None) -> Integrity:
    """Size and SHA-256 of the weights, unpacked; all of them, whatever ``size`` says."""
    try:
        with zipfile.ZipFile(path) as archive, open_member(archive, _WEIGHTS) as member:
            return digest(member)
    except ZIP_ERRORS as error:
        raise VitsdError(f"{path} is damaged ({error}): copy it again.") from error


def write_spec_json(path: Path, content: str, size: int) -> None:
    """Add the member; one that is there is left out of a copy first, for zip can't replace it."""
    with zipfile.ZipFile(path) as archive:
        has_spec = SPEC_NAME in archive.namelist()
    if has_spec:
        with (
            atomic_write(path) as copy,
            zipfile.ZipFile(path) as source,
            zipfile.ZipFile(copy, "w") as target,
        ):
            for member in source.infolist():
                if member.filename != SPEC_NAME:
                    target.writestr(member, source.read(member))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(SPEC_NAME, content)
