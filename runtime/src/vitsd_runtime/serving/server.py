"""The server's process: from its socket to its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import uvicorn
from PIL import Image

from vitsd_runtime.errors import UsageError
from vitsd_runtime.serving.app import App
from vitsd_runtime.serving.connection import Config, watch
from vitsd_runtime.serving.metrics import Metrics
from vitsd_runtime.serving.models import Models, Source
from vitsd_runtime.serving.settings import Settings
from vitsd_runtime.system.text import printable, why

_log = logging.getLogger(__name__)
_SWITCH_SECONDS = 0.0005
"""After which a thread that computes lets another one run: a tenth of Python's default, because an
engine that has finished an image waits for that."""
_BACKLOG = 2048
"""Connections that wait to be accepted."""
_GRACE_SECONDS = 30
"""For what is in work when the server is told to stop."""


def serve(sources: Sequence[Source], settings: Settings, listener: socket.socket) -> None:
    """Load the models, and answer until SIGTERM, SIGINT or SIGHUP comes.

    What is in work then is still answered; a second signal ends that, too.

    Args:
        sources: where the models come from.
        settings: of the server.
        listener: from :func:`listen`.

    Raises:
        UsageError: a model can't be right.
        VitsdError: a model can't be loaded, or does not pass its verification.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    Image.preinit()  # takes a tenth of a second, that the first client would wait
    _allow_many_files()
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of bad requests
    asyncio.run(_serve(sources, settings, listener))


async def _serve(sources: Sequence[Source], settings: Settings, listener: socket.socket) -> None:
    metrics = Metrics()
    models = Models(settings, metrics)
    for source in sources:
        await models.add(source)
    config = Config(
        App(models, metrics, settings),
        settings,
        metrics,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    listener.listen(_BACKLOG)
    _log.info("Serving at %s", _address(listener))
    _tell_systemd("READY=1")
    server = _Server(config)
    _end_at_hangup(server)
    background = [models.keep_up(), watch(server.server_state)]
    tasks = [asyncio.create_task(forever) for forever in background]
    try:
        await server.serve([listener])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        models.stop()
    _log.info("Stopped.")


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets everything in work be answered, a second one doesn't."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _end_at_hangup(server: _Server) -> None:
    """Do at SIGHUP what uvicorn does at SIGINT and SIGTERM; not under nohup."""
    number = getattr(signal, "SIGHUP", None)  # not on Windows
    here = threading.current_thread() is threading.main_thread()
    if here and number is not None and signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, server.handle_exit)


def listen(settings: Settings) -> socket.socket:
    """The socket at which a server is asked, before it takes the time to load models.

    Raises:
        UsageError: the address can't be used.
    """
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)  # else a second server could bind it, too
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"Can't listen at {printable(host)}, port {port}: {why(error)}. Choose another `host` "
            "or `port`."
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _allow_many_files() -> None:
    """Every connection is an open file; systems allow 1,024 until one asks for more."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _tell_systemd(state: str) -> None:
    """Tell systemd, where it asked for it (``Type=notify``): sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.connect("\0" + address[1:] if address[0] == "@" else address)
            sender.sendall(state.encode())
