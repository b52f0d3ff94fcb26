"""Download from a host that may be slow, cut off, or hostile: bounded in bytes and seconds."""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import math
import os
import signal
import stat
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any, BinaryIO

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.files import open_regular
from vitsd_runtime.system.text import printable, why

_log = logging.getLogger(__name__)
_SILENCE = 30.0
"""Seconds for a connection, and between two pieces of an answer."""
_LEAST_BYTES = 10_000
"""In every :data:`_SILENCE`, else the host is too slow."""
_PIECE = 2**16
_BROKEN = (OSError, http.client.HTTPException, ValueError)
"""What connections end in; ValueError: at a redirect to what is no URL."""
_TRIES = 30
_PAUSE = 1.0
"""Seconds before the second try without any progress; doubled for every further one."""
_MAX_IDLE_TRIES = 4
_MAX_REDIRECTS = 5
_DISK_ERRORS = (errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG, errno.EROFS, errno.EIO)


class Host:
    """A folder of a static host.

    Args:
        url: of the folder: http, https or file.
        timeout: seconds for everything that is downloaded, from the first request on.

    Raises:
        UsageError: it is no such URL.
    """

    def __init__(self, url: str, timeout: float) -> None:
        check_url(url)
        self._url = url if url.endswith("/") else f"{url}/"
        self._timeout, self._end = timeout, math.inf
        self._pace = _Pace()
        self._opener = _opener()

    def read(self, name: str, limit: int) -> bytes:
        """A small file's content.

        Raises:
            VitsdError: it can't be read, or has more than ``limit`` bytes.
        """
        url, content = self._url + name, bytearray()
        with self._limited(), _explained(url), self._open(url) as answer:
            while piece := answer.read1(_PIECE):
                content += piece
                self._pace.count(len(piece))
                if len(content) > limit:
                    raise VitsdError(f"{printable(url)} has more than {limit:,} bytes.")
        return bytes(content)

    def fetch(self, name: str, target: Path, size: int) -> None:
        """Download a file, or what is still missing of it.

        Args:
            name: in the folder.
            target: where the file goes; what is there is taken as its beginning.
            size: bytes that it has.

        Raises:
            VitsdError: the host sends less, more, or too slowly; what came stays at ``target``.
            OSError: the disk is full.
        """
        url, idle = self._url + name, 0
        with self._limited(), open(open_regular(target), "r+b") as file:
            for _ in range(_TRIES):
                before = file.seek(0, os.SEEK_END)
                if before > size:
                    file.truncate(before := 0)
                if before == size:
                    break
                try:
                    self._append(url, file, before, size)
                except _BROKEN as error:
                    if getattr(error, "errno", None) in _DISK_ERRORS:
                        raise
                    problem = _reason(error)
                else:
                    problem = "the connection was closed"
                after = file.seek(0, os.SEEK_END)
                if after == size:
                    break
                _log.info(
                    "%s: %s after %s of %s bytes",
                    printable(url),
                    problem,
                    f"{after:,}",
                    f"{size:,}",
                )
                idle = 0 if after > before else idle + 1
                if idle == _MAX_IDLE_TRIES:
                    raise VitsdError(f"{printable(url)} can't be read: {problem}.")
                time.sleep(_PAUSE * 2 ** (idle - 1) if idle else 0)
            else:
                raise VitsdError(f"{printable(url)} was cut off {_TRIES} times.")

    def _append(self, url: str, file: BinaryIO, start: int, size: int) -> None:
        with self._open(url, start) as answer:
            if start and answer.status == http.client.OK:  # it knows no ranges
                file.truncate(start := 0)
            sent = answer.length  # None where it is not said
            if sent is not None and start + sent > size:
                raise VitsdError(
                    f"{printable(url)} has {start + sent:,} bytes; {size:,} were signed."
                )
            file.seek(start)
            missing = size - start
            while piece := answer.read1(min(_PIECE, missing + 1)):
                missing -= len(piece)
                if missing < 0:
                    raise VitsdError(f"{printable(url)} has more bytes than the {size:,} signed.")
                file.write(piece)
                self._pace.count(len(piece))

    @contextlib.contextmanager
    def _open(self, url: str, start: int = 0) -> Iterator[Any]:
        """The answer, from a byte on: ``status`` (206: it begins there), ``length``, ``read1``."""
        if urllib.parse.urlsplit(url).scheme == "file":
            with _open_file(url, start) as answer:
                yield answer
            return
        headers = {"User-Agent": "vitsd-agent", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(url, headers=headers)
        try:
            answer = self._opener.open(request, timeout=_SILENCE)
        except urllib.error.HTTPError as error:
            error.close()
            raise VitsdError(
                f"{printable(url)}: the host answers {error.code} {printable(error.reason)}."
            ) from error
        self._pace = _Pace()  # of this answer: what was done before it took its own time
        with answer:
            place = answer.headers.get("Content-Range", "")
            partial = answer.status == http.client.PARTIAL_CONTENT
            if partial and not (start and place.startswith(f"bytes {start}-")):
                raise VitsdError(f"{printable(url)}: the host sends another part than was asked.")
            if not partial and answer.status != http.client.OK:
                raise VitsdError(f"{printable(url)}: the host answers {answer.status}.")
            yield answer

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        self._end = min(self._end, time.monotonic() + self._timeout)
        with _time_limit(self._end - time.monotonic()):
            yield


def post(url: str, content: bytes) -> None:
    """Send JSON to an address.

    Raises:
        VitsdError: it could not be sent, or is not taken.
    """
    headers = {"User-Agent": "vitsd-agent", "Content-Type": "application/json"}
    request = urllib.request.Request(url, content, headers)
    with _time_limit(_SILENCE), _explained(url):
        _opener().open(request, timeout=_SILENCE).close()


def check_url(url: str, schemes: tuple[str, ...] = ("http", "https", "file")) -> None:
    """Raise UsageError for what is no URL of these kinds, or holds a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        here = parts.netloc in ("", "localhost") and parts.path.startswith("/")
        good = parts.scheme in schemes and (here if parts.scheme == "file" else parts.hostname)
        good = good and url.isascii() and url.isprintable() and " " not in url and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good:
        files = " (file:///FOLDER)" if "file" in schemes else ""
        raise UsageError(f"{printable(url)} is no URL of {', '.join(schemes)}{files}.")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise UsageError("A URL must have no password, '?' and '#'.")


class _Pace:
    """Bytes in the last seconds."""

    def __init__(self) -> None:
        self._since, self._bytes = time.monotonic(), 0

    def count(self, received: int) -> None:
        """Note what came.

        Raises:
            VitsdError: it is too little.
        """
        self._bytes += received
        now = time.monotonic()
        if now - self._since > _SILENCE:
            if self._bytes < _LEAST_BYTES:
                raise VitsdError(
                    f"The host is too slow: {self._bytes:,} bytes in {_SILENCE:.0f} seconds."
                )
            self._since, self._bytes = now, 0


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A few, never to another kind of URL or back to http."""

    max_redirections = _MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The next request."""
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urllib.parse.urlsplit(newurl).scheme not in allowed:
            raise VitsdError(f"{printable(req.full_url)} leads to {printable(newurl)}: refused.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers that would open files and FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        _Redirects,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


class _FileAnswer:
    """A file, as an answer of HTTP."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self.status = http.client.PARTIAL_CONTENT if start else http.client.OK
        self.length = os.fstat(file.fileno()).st_size - start
        file.seek(start)
        self.read1 = file.read


@contextlib.contextmanager
def _open_file(url: str, start: int) -> Iterator[_FileAnswer]:
    path = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise VitsdError(f"{printable(path)} is no file.")
        yield _FileAnswer(file, start)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        hint = ""
        if "CERTIFICATE" in str(error):
            hint = f" (this machine's clock says {time.strftime('%Y-%m-%d')})"
        raise VitsdError(f"{printable(url)} can't be read: {_reason(error)}{hint}.") from error


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", error)  # of urllib's errors
    return why(inner) if isinstance(inner, BaseException) else printable(inner)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End a block after a time, whatever it waits for: a host may send a head byte by byte.

    Only in the main thread, where signals are handled.
    """
    message = "The time is up (`timeout`): the host is too slow, or the network is."
    if seconds <= 0:
        raise VitsdError(message)
    alarm = getattr(signal, "SIGALRM", None)  # not on Windows
    if alarm is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise VitsdError(message)

    before = signal.signal(alarm, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(alarm, before)
