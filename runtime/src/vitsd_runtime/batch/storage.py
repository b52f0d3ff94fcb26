"""Files on this machine and in object stores, by path or URL, through pyarrow."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import sys
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote

from vitsd_runtime.engines.base import import_optional
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.reading import is_url
from vitsd_runtime.system.text import first_line, printable, why

_WEB = ("http:/", "https:/")
_SECONDS = 60
"""Without a byte from the web."""
_CONNECT_SECONDS = 10


class Place(NamedTuple):
    """A file or folder: its file system, its path there, and what comes before that in its URL."""

    system: Any
    """A ``pyarrow.fs.FileSystem``; None: this machine's own."""
    path: str
    prefix: str


def locate(name: str) -> Place:
    """Where a path or URL leads to.

    Raises:
        UsageError: nothing here reads such URLs.
        VitsdError: pyarrow is missing.
    """
    if not is_url(name):
        return Place(None, os.path.abspath(name), "")
    if is_on_web(name):
        raise UsageError(f"{printable(name)}: the web has images, no folders: download it first.")
    # Not by urlsplit: keys of objects may have # and ? in them.
    scheme, _, path = name.partition(":")
    scheme, path = scheme.lower(), path.removeprefix("//").rstrip("/")
    if scheme == "file":
        return Place(None, os.path.abspath("/" + unquote(path.partition("/")[2])), "")
    bucket = path.partition("/")[0]
    if not bucket:
        raise UsageError(f"{printable(name)} names no bucket: {scheme}://BUCKET/PATH.")
    return Place(_object_store(scheme, bucket), path, f"{scheme}://")


def is_on_web(name: str) -> bool:
    """Whether a path or URL is one of http(s), where there are no folders."""
    return name.lower().startswith(_WEB)


def is_remote(name: str) -> bool:
    """Whether a path or URL leads away from this machine."""
    return is_url(name) and not name.lower().startswith("file:")


def is_file(name: str) -> bool:
    """Whether there is a file at a path or URL.

    Raises:
        VitsdError: that can't be found out.
    """
    place = locate(name)
    # Here and below: pyarrow's own functions take no local names that are no valid text.
    if place.system is None:
        return os.path.isfile(place.path)
    with explained(name):
        (info,) = place.system.get_file_info([place.path])
    return bool(info.is_file)


def names_in(folder: str) -> list[str]:
    """Of all that is in a folder, in order; none where there is no folder.

    Raises:
        UsageError: it is no folder.
        VitsdError: it can't be read.
    """
    place = locate(folder)
    with explained(folder):
        if place.system is not None:
            selector = need_pyarrow().fs.FileSelector(place.path, allow_not_found=True)
            return sorted(info.base_name for info in place.system.get_file_info(selector))
        try:
            return sorted(os.listdir(place.path))
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise UsageError(f"{printable(folder)} is no folder: name one, new or old.") from error


def remove_folder(name: str) -> None:
    """Remove a folder and what is in it, as far as that can be done."""
    place = locate(name)
    if place.system is None:
        shutil.rmtree(place.path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        place.system.delete_dir(place.path)


@contextlib.contextmanager
def open_any(name: str) -> Iterator[BinaryIO]:
    """A file in a folder or an object store, open for reading at any place in it.

    Raises:
        VitsdError: it can't be read.
    """
    system, path, _ = locate(name)
    with (
        explained(name),
        open(path, "rb") if system is None else system.open_input_file(path) as file,
    ):
        yield file


@contextlib.contextmanager
def open_remote(name: str) -> Iterator[BinaryIO]:
    """A file that :func:`is_remote`, open for reading.

    Raises:
        VitsdError: it can't be read.
    """
    with explained(name), _stream(name) as file:
        yield file


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Say which file it is that can't be used, and why.

    Raises:
        VitsdError: instead of what file systems and the web raise.
    """
    try:
        yield
    except VitsdError:  # UsageError is a ValueError, too
        raise
    except FileNotFoundError as error:
        raise VitsdError(f"There is nothing at {printable(name)}.") from error
    except (OSError, HTTPException, ValueError) as error:
        raise VitsdError(f"{printable(name)} can't be used: {first_line(error)}") from error


def check_reachable(engine: str, address: str) -> None:
    """Knock at ``HOST:PORT``, for engines that would try for minutes.

    Raises:
        VitsdError: nobody answers there.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except (OSError, OverflowError, UnicodeError) as error:
            raise VitsdError(
                f"{engine} can't be reached at {printable(address)}: {why(error)}."
            ) from error


def need_package(extra: str, *modules: str) -> Any:
    """The package of some modules, which are imported.

    Raises:
        VitsdError: it is missing; the message names the runtime's extra that installs it.
    """
    for module in modules:
        if import_optional(module) is None:
            raise VitsdError(f'{module} is not installed: pip install "vitsd-runtime[{extra}]".')
    return sys.modules[modules[0].split(".")[0]]


def need_pyarrow() -> Any:
    """pyarrow, with its file systems and Parquet.

    Raises:
        VitsdError: it is missing.
    """
    return need_package("spark", "pyarrow.fs", "pyarrow.parquet")


def _stream(name: str) -> Any:
    if is_on_web(name):
        return urllib.request.urlopen(name, timeout=_SECONDS)
    place = locate(name)
    return place.system.open_input_stream(place.path)


@functools.lru_cache(maxsize=16)
def _object_store(scheme: str, bucket: str) -> Any:
    fs = need_pyarrow().fs
    try:
        return fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]
    except (ValueError, NotImplementedError, OSError) as error:
        raise UsageError(f"{scheme}:// can't be read here: {first_line(error)}") from error
