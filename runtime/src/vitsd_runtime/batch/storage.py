"""Files on this machine and in object stores, by path or URL, through pyarrow."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

from vitsd_runtime.engines.base import import_optional
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.reading import is_url
from vitsd_runtime.system.text import first_line, printable

_WEB = ("http", "https")
_SECONDS = 60
"""Without a byte from the web."""


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
    url = urlsplit(name)
    if url.scheme == "file":
        return Place(None, unquote(url.path), "")
    if url.scheme in _WEB:
        raise UsageError(f"{printable(name)}: the web has images, no folders: download it first.")
    path = (url.netloc + url.path).rstrip("/")
    return Place(_object_store(url.scheme, url.netloc), path, f"{url.scheme}://")


def is_on_web(name: str) -> bool:
    """Whether a path or URL is one of http(s), where there are no folders."""
    return is_url(name) and urlsplit(name).scheme in _WEB


def is_remote(name: str) -> bool:
    """Whether a path or URL leads away from this machine."""
    return is_url(name) and not name.startswith("file:")


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
