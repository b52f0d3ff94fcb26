"""Write files and folders whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike

_SCRATCH = ".vitsd-tmp-"
"""How the names of our temporary folders begin."""
_OLD = ".old"
"""In such a folder: what was moved out of the way, where it can't be exchanged in one step."""
_NEW = 2.0
"""Seconds after which a temporary folder is surely locked by the process that made it."""


@contextlib.contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path; what stands there at the end takes the place of ``path``.

    It has the same name, because libraries choose the format by its ending. Works for a file or a
    folder. At every moment there is the old one or the new one. On any error the old one stays as
    it was. A link stays a link: what it points to is replaced.

    Raises:
        UsageError: something is in the way that can't be replaced.
    """
    path = _resolve_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Beside it, because only within a file system can it be renamed.
        with temporary_folder(path.parent) as folder:
            temporary = folder / path.name
            yield temporary
            _sync(temporary)  # else a power cut after the renaming could leave an empty file
            _replace(path, temporary)
            sync_folder(path.parent)
    except OSError as error:
        if str(error.filename).startswith(str(path.parent / _SCRATCH)):  # a name that nobody gave
            error.filename = str(path)
        raise


@contextlib.contextmanager
def temporary_folder(parent: PathLike | None = None) -> Iterator[Path]:
    """A folder that is removed at the end; if the process is killed, by the next call.

    Args:
        parent: where to make it; by default where the system wants temporary files.
    """
    import tempfile

    parent = Path(tempfile.gettempdir() if parent is None else parent)
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
    with contextlib.ExitStack() as stack:
        stack.callback(remove, folder)
        with contextlib.suppress(OSError):  # not everywhere can folders be locked
            # Another process may hold it for the moment in which it looks whose it is.
            stack.enter_context(locked(folder, wait=True))
        yield folder


def check_writable(path: PathLike, folder: bool = False) -> None:
    """Before long work, raise what :func:`atomic_write` would raise at its end.

    Args:
        path: of what is going to be written.
        folder: it will be a folder, not a file.

    Raises:
        UsageError: something is in the way that can't be replaced by that.
        PermissionError: the folder around it can't be written to.
    """
    path = _resolve_output(path)
    if path.is_dir() and not folder:
        raise UsageError(_A_FOLDER.format(printable(path)))
    if folder and path.is_file():
        raise UsageError(f"{printable(path)} is a file, where a folder is to be written.")
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
    try:
        _exchange(path, temporary)
    except (OSError, AttributeError):  # the system or the file system can't
        old = temporary.parent / _OLD
        os.rename(path, old)
        try:
            os.rename(temporary, path)
        except BaseException:
            os.rename(old, path)
            raise


def _exchange(first: Path, second: Path) -> None:
    """Exchange two folders in one step: Linux 3.15, glibc 2.28.

    Raises:
        AttributeError: the C library has no such function.
        OSError: the file system can't do it.
    """
    import ctypes

    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    if rename(here, os.fsencode(first), here, os.fsencode(second), exchange):
        raise OSError(ctypes.get_errno(), "can't be exchanged")


def _remove_abandoned(parent: Path) -> None:
    """Remove temporary folders of processes that were killed.

    What one of them had moved out of the way, and not replaced yet, is put back.
    """
    for folder in parent.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError), locked(folder) as age:
            if age < _NEW:  # it may not be locked yet
                continue
            for new in folder.iterdir() if (folder / _OLD).exists() else ():
                if new.name != _OLD and not (parent / new.name).exists():
                    os.rename(folder / _OLD, parent / new.name)
            remove(folder)


@contextlib.contextmanager
def locked(folder: Path, of_others: bool = False, wait: bool = False) -> Iterator[float]:
    """Lock a folder until the block or the process ends; yields its age in seconds.

    Args:
        folder: to lock.
        of_others: it may be another user's.
        wait: until no other process has locked it.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it is somebody else's, a link, or no folder.
    """
    flags = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(folder, os.O_RDONLY | flags)
    try:
        import fcntl  # not on Windows, where a folder can't be opened either

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        status = os.fstat(descriptor)
        if not of_others and status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "somebody else's", str(folder))
        yield time.time() - status.st_mtime
    finally:
        os.close(descriptor)


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
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if file.is_dir():
            sync_folder(file)
        elif file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def open_regular(path: Path, flags: int = 0) -> int:
    """Open a file to read and write, made if missing; no link: others may write beside it.

    Args:
        path: of the file.
        flags: more of those of :func:`os.open`.

    Raises:
        OSError: it can't be, or it is no regular file.
    """
    flags |= os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for somebody
    file = os.open(path, flags, 0o644)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("it is no regular file")
    return file


def sync_folder(path: Path) -> None:
    """Have the names in a folder outlive a power cut."""
    with contextlib.suppress(OSError):  # not everywhere can folders be opened
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


def identify(path: PathLike) -> tuple[int, ...]:
    """Numbers that are others once a file is changed or replaced; none where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
