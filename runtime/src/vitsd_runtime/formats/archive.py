"""Zip archives from untrusted sources, digests, and the spec as an archive's member."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.spec import MAX_JSON_BYTES, MAX_MODEL_BYTES
from vitsd_runtime.system.text import first_line, printable

SPEC_NAME = "vitsd.json"
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
    OSError,
)
"""What the standard library raises for damaged, encrypted or incomplete archives, whose offsets may
lead anywhere."""
_CHUNK = 1 << 20
_MAX_DIRECTORY = 1 << 16
"""Bytes of an archive's list of members; zipfile makes an object of each before it is asked."""
_END = b"PK\x05\x06"
_STAMP = struct.pack("<HH", 0, 0x21)
"""The time of a member, 1980-01-01: the same content makes the same file."""
_UNIX, _WINDOWS = 3, 0
"""Systems that an archive was made on."""


class FoundSpec(NamedTuple):
    """The spec in a model file."""

    json: bytes
    size: int
    """Bytes of the model in front of it."""
    alone: bool
    """Whether model and spec fill the file: nothing stands between or behind them."""


class Member(NamedTuple):
    """A stored member of an archive."""

    name: str
    size: int
    crc: int
    """Its CRC-32."""


def is_archive(path: Path) -> bool:
    """Whether a file ends as the archives do that vitsd and Keras write: without a comment."""
    with open(path, "rb") as file:
        file.seek(-min(22, path.stat().st_size), 2)
        end = file.read()
    return end[:4] == _END and end[20:] == b"\0\0"


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open an archive whose list of members is small.

    Raises:
        zipfile.BadZipFile: it is none, or its list is huge.
    """
    if not is_archive(path):
        raise zipfile.BadZipFile("it does not end as a zip archive does")
    with open(path, "rb") as file:
        file.seek(-min(42, path.stat().st_size), 2)
        end = file.read()
    # The locator of a zip64 directory would stand in front, and win over these numbers.
    if end[:4] == b"PK\x06\x07" or struct.unpack_from("<I", end, len(end) - 10)[0] > _MAX_DIRECTORY:
        raise zipfile.BadZipFile("it has too many members")
    return zipfile.ZipFile(path)


def open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open a member that is stored or deflated: nothing else is written by vitsd.

    Raises:
        zipfile.BadZipFile: it is packed in another way, such as bzip2 bombs are.
    """
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{name} is packed in a way that vitsd does not use")
    return archive.open(name)


def read_spec_member(archive: zipfile.ZipFile) -> bytes:
    """The spec's JSON in a zip archive that has one; of a longer one, one byte too many."""
    with open_member(archive, SPEC_NAME) as member:
        # Not as many as the archive says, which may be a lie. Whoever parses it refuses more.
        return member.read(MAX_JSON_BYTES + 1)


def damaged(path: Path, error: BaseException) -> VitsdError:
    """The error to raise where an archive can't be read."""
    return VitsdError(
        f"{printable(path)} is damaged or cut off ({first_line(error)}): copy it again."
    )


def headers(
    members: Iterable[Member], start: int = 0, stamp: bytes = _STAMP, system: int = _UNIX
) -> Iterator[tuple[int, bytes]]:
    """Positions and bytes of all of an archive but its members' content, in order.

    Written and compared by the byte, so that a flipped bit anywhere in a model file is noticed.
    Source: PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.

    Args:
        members: all of them stored, not packed.
        start: bytes of the file in front of the archive.
        stamp: of all members.
        system: where it was made.
    """
    position, directory, count = start, b"", 0
    for name, size, crc in members:
        shared = struct.pack("<HHH", 20, 0, zipfile.ZIP_STORED) + stamp
        shared += struct.pack("<IIIHH", crc, size, size, len(name), 0)
        local = b"PK\x03\x04" + shared + name.encode()
        yield position, local
        directory += b"PK\x01\x02" + bytes([20, system]) + shared
        directory += struct.pack("<HHHII", 0, 0, 0, 0o600 << 16, position) + name.encode()
        position += len(local) + size
        count += 1
    numbers = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), position, 0)
    yield position, directory + _END + numbers


def is_plain(path: Path, members: list[Member], start: int = 0) -> bool:
    """Whether nothing but ``members`` stands in a file behind its first ``start`` bytes."""
    with open(path, "rb") as file:
        file.seek(start + 10)
        stamp = file.read(4)

        def same(system: int) -> bool:
            end = start
            for position, expected in headers(members, start, stamp, system):
                file.seek(position)
                if file.read(len(expected)) != expected:
                    return False
                end = position + len(expected)
            return end == path.stat().st_size

        return same(_UNIX) or same(_WINDOWS)


def digest_file(path: Path, size: int | None = None) -> tuple[int, str]:
    """Size and SHA-256 of a file's first ``size`` bytes, by default of all."""
    with open(path, "rb") as file:
        return digest(file, path.stat().st_size if size is None else size)


def digest(file: IO[bytes], size: int = MAX_MODEL_BYTES + 1) -> tuple[int, str]:
    """Size and SHA-256 of the next ``size`` bytes; by default of all that a model can have."""
    sha256, done = hashlib.sha256(), 0
    while chunk := file.read(min(size - done, _CHUNK)):
        sha256.update(chunk)
        done += len(chunk)
    return done, sha256.hexdigest()
