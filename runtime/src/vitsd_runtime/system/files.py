"""Write files and folders whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike


@contextlib.contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what stands there at the end takes ``path``'s place.

    Works for a file or a folder. On any error the temporary one is removed and an old ``path``
    stays as it was. A link stays a link: what it points to is replaced.

    Raises:
        UsageError: something is in the way that can't be replaced.
    """
    path = _resolve_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name goes last, because libraries choose the format by its ending.
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        _sync(temporary)  # else a power cut after the renaming could leave an empty file
        _replace(path, temporary)
    except OSError as error:
        if error.filename == str(temporary):  # a name that nobody gave
            error.filename = str(path)
        raise
    finally:
        remove(temporary)


def check_writable(path: PathLike) -> None:
    """Before long work, raise what :func:`atomic_write` would raise at its end.

    Raises:
        UsageError: something is in the way that can't be replaced by a file.
        PermissionError: the folder can't be written to.
    """
    path = _resolve_output(path)
    if path.is_dir():
        raise UsageError(_A_FOLDER.format(printable(path)))
    parent = _parent(path)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))


_A_FOLDER = "{} is a folder: give the name of a file in it."


def _replace(path: Path, temporary: Path) -> None:
    if not path.is_dir():
        os.replace(temporary, path)
        return
    if not temporary.is_dir():
        raise UsageError(_A_FOLDER.format(printable(path)))
    # A folder can't be replaced in one step: move the old one aside.
    old = path.with_name(f".old-{secrets.token_hex(4)}-{path.name}")
    os.rename(path, old)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old)


def _resolve_output(path: PathLike) -> Path:
    """Where a file or folder can be written, links resolved."""
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(
            f"{printable(path)} is neither a file nor a folder, so it can't be replaced by one."
        )
    _parent(path)
    return path


def _parent(path: Path) -> Path:
    """The nearest folder above ``path`` that is there already.

    Raises:
        UsageError: something else is in its place.
    """
    parent = next(parent for parent in path.parents if parent.exists())
    if not parent.is_dir():
        raise UsageError(f"{printable(parent)} is not a folder, so nothing can be written into it.")
    return parent


def _sync(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def write_text(path: PathLike, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
