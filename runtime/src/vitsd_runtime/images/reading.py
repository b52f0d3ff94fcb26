"""The bytes of an image that somebody names or hands over, bounded."""

from __future__ import annotations

import os
import re
import stat
from typing import Any

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.kinds import RAW_ENDINGS
from vitsd_runtime.system.text import printable, why
from vitsd_runtime.types import PathLike

MAX_FILE_BYTES = 256 * 2**20
"""A larger file is refused: 45 million pixels without any compression take half of this."""
MAX_TRIES = 3
"""An image that ended the program so often is passed over."""
DEADLY = f"Reading it ended the program {MAX_TRIES} times."
_URL = r"(https?|ftps?|s3|gs|file):/|data:[\w/+.-]*[;,]"


def is_url(text: PathLike) -> bool:
    """Whether something given as a path is a URL."""
    return re.match(_URL, str(text), re.IGNORECASE) is not None


def is_encoded(source: Any) -> bool:
    """Whether :func:`read_encoded` takes it: a path, bytes, or an open file."""
    return isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(
        source, "read"
    )


def name_of(source: Any) -> str:
    """What messages call an image."""
    if isinstance(source, (str, os.PathLike)):
        return printable(os.fspath(source))
    name = getattr(source, "name", None)  # a number, where a file was opened by its descriptor
    return printable(name) if isinstance(name, str) else "The image"


def read_encoded(source: Any) -> bytes:
    """The content of an image file.

    Args:
        source: a path, also of a pipe or a device; bytes; or a file that is open in binary mode,
            which is read from where it stands.

    Raises:
        UsageError: there is nothing at the path, or it is a URL; the file is open as text.
        VitsdError: it can't be read, is empty, or has more than :data:`MAX_FILE_BYTES`.
    """
    name = name_of(source)
    if isinstance(source, (str, os.PathLike)):
        content = _read_path(source, name)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    else:
        content = _read_all(source, name)
    if not content:
        raise VitsdError(f"{name} is empty (0 bytes){_at_its_end(source)}.")
    if len(content) > MAX_FILE_BYTES:
        raise _too_large(name)
    return content


def _read_path(path: PathLike, name: str) -> bytes:
    if not str(path):
        raise UsageError("The path of an image is empty.")
    if is_url(path):
        raise UsageError(f"{name} is a URL: download it first, and give the file.")
    if str(path).lower().endswith(RAW_ENDINGS):
        raise VitsdError(f"{name} is a camera's RAW file: convert it to JPEG or PNG first.")
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            # Not even the holes of a sparse file are read.
            if stat.S_ISREG(status.st_mode) and status.st_size > MAX_FILE_BYTES:
                raise _too_large(name)
            return _read_all(file, name)
    except VitsdError:  # UsageError is a ValueError, too
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UsageError(f"There is no image at {name}.") from error
    except OSError as error:
        raise _unreadable(name, error) from error


def _read_all(file: Any, name: str) -> bytes:
    """All bytes of an open file, but no more than one above the limit; pipes give them in parts."""
    parts, missing = [], MAX_FILE_BYTES + 1
    while missing:
        try:
            part = file.read(min(missing, 2**20))
        except (OSError, ValueError) as error:  # it is closed, or open for writing only, or broken
            raise _unreadable(name, error) from error
        if isinstance(part, str):
            raise UsageError(f'{name} is open as text: open it in binary mode, open(path, "rb").')
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _at_its_end(source: Any) -> str:
    try:
        return ": it is read to its end already; call seek(0)" if source.tell() else ""
    except (AttributeError, OSError):  # no file, or one that can't tell
        return ""


def _unreadable(name: str, error: Exception) -> VitsdError:
    return VitsdError(f"{name} can't be read: {why(error).rstrip('.')}.")


def _too_large(name: str) -> VitsdError:
    return VitsdError(
        f"{name} is too large: image files of more than {MAX_FILE_BYTES // 2**20} MiB are refused."
    )
