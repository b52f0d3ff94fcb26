"""Signals as exceptions, also where native code drops them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_received: list[int] = []
"""Signals that this process was sent since :func:`catch_signals`."""
_reporters: list[Callable[[sys.UnraisableHookArgs], Any]] = []
"""What reported exceptions that nobody can catch, before :func:`catch_signals`."""


def check_interrupted() -> None:
    """Raise again what Ctrl-C or a signal to terminate has raised already.

    Native callbacks may swallow the exception raised by a signal handler; long loops poll this.

    Raises:
        KeyboardInterrupt: after SIGINT.
        SystemExit: with code 128 + N, after another signal N.
    """
    if _received:
        number = _received[-1]
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def catch_signals() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into exceptions, so that temporary files are cleaned up."""
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Ignored under nohup, and in a background job.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)

    if sys.unraisablehook is not _on_unraisable:
        _reporters.append(sys.unraisablehook)
        sys.unraisablehook = _on_unraisable


def forget_signals() -> None:
    """Start anew, as if no signal had come."""
    _received.clear()


def _on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Say nothing of an interrupt that a weak reference's callback dropped: it is raised again."""
    if not (_received and issubclass(unraisable.exc_type, (KeyboardInterrupt, SystemExit))):
        _reporters[-1](unraisable)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    check_interrupted()
