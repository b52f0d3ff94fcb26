"""Zip archives from untrusted sources, digests, and the spec as an archive's member."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import IO

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.spec import MAX_JSON_BYTES, Integrity

SPEC_NAME = "vitsd.json"
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What the standard library raises for damaged, encrypted or incomplete archives."""
_CHUNK = 1 << 20


def read_spec_member(path: Path) -> bytes | None:
    """The spec's JSON in a zip archive; None if the archive has none.

    Raises:
        VitsdError: the archive is damaged, or the spec too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if SPEC_NAME not in archive.namelist():
                return None
            with open_member(archive, SPEC_NAME) as member:
                # Not what the archive says about its size, which may be a lie.
                content = member.read(MAX_JSON_BYTES + 1)
    except PermissionError:
        raise
    except (*ZIP_ERRORS, OSError) as error:
        raise VitsdError(f"{path} is damaged or cut off ({error}): copy it again.") from error
    if len(content) > MAX_JSON_BYTES:
        raise VitsdError(f"{path}: its {SPEC_NAME} is too large to be a spec.")
    return content


def open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open a member that is stored or deflated: nothing else is written by vitsd.

    Raises:
        zipfile.BadZipFile: it is packed in another way, such as bzip2 bombs are.
    """
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{name} is packed in a way that vitsd does not use")
    return archive.open(name)


def digest_file(path: Path, size: int | None = None) -> Integrity:
    """Size and SHA-256 of a file's first ``size`` bytes, by default of all."""
    with open(path, "rb") as file:
        return digest(file, path.stat().st_size if size is None else size)


def digest(file: IO[bytes], size: int | None = None) -> Integrity:
    """Size and SHA-256 of the next ``size`` bytes, by default of all that follow."""
    sha256, done = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK if size is None else min(size - done, _CHUNK)):
        sha256.update(chunk)
        done += len(chunk)
    return Integrity(done, sha256.hexdigest())
