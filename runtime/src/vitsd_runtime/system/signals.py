"""Signals as exceptions, also where native code drops them or never returns."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_received: list[int] = []
"""Signals that this process was sent since :func:`catch_signals`."""
_held: list[bool] = []
"""One for each :func:`hold_signals` that is entered."""
_accepted: list[bool] = []
"""Not empty, once a signal was :func:`accept_signal`'s."""
_GRACE_SECONDS = 1.0
"""Time to clean up in after the first signal, whatever comes next.

`timeout` and some other programs send the same signal twice at once.
"""
_watched: list[int] = []
"""The file descriptor that tells a thread of signals, if there is one."""
_reporters: list[Callable[[sys.UnraisableHookArgs], Any]] = []
"""What reported exceptions that nobody can catch, before :func:`catch_signals`."""


def check_interrupted() -> None:
    """Raise again what Ctrl-C or a signal to terminate has raised already.

    Native callbacks may swallow the exception raised by a signal handler; long loops poll this.

    Raises:
        KeyboardInterrupt: after SIGINT.
        SystemExit: with code 128 + N, after another signal N.
    """
    if _received and not _accepted:
        number = _received[-1]
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def catch_signals() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into exceptions, so that temporary files are cleaned up.

    Python raises them when native code returns. A second signal ends the process even if it never
    does.
    """
    forget_signals()
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Ignored under nohup, and in a background job.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    if hasattr(os, "register_at_fork"):  # not on Windows
        _watch()

    if sys.unraisablehook is not _on_unraisable:
        _reporters.append(sys.unraisablehook)
        sys.unraisablehook = _on_unraisable


def forget_signals() -> None:
    """Start anew, as if no signal had come."""
    _received.clear()
    _accepted.clear()


def accept_signal() -> None:
    """The signal that came is the end that was meant to be: it interrupts nothing any more."""
    _accepted.append(True)


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Raise what a signal raises after this block, not in it: for steps that belong together."""
    _held.append(True)
    try:
        yield
    finally:
        _held.pop()
    check_interrupted()


def _on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Say nothing of an interrupt that a weak reference's callback dropped: it is raised again."""
    if not (_received and issubclass(unraisable.exc_type, (KeyboardInterrupt, SystemExit))):
        _reporters[-1](unraisable)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    # Once: cleaning up is not to be interrupted.
    if not _held and (len(_received) == 1 or not _watched):
        check_interrupted()


def _watch() -> None:
    """Have a thread told of every signal, by the part of Python's handler that runs at once."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_end_at_second, args=(told,), daemon=True).start()
    if _watched:  # an earlier command in this process
        os.close(_watched.pop())
    else:
        os.register_at_fork(after_in_child=_stop_watching)
    _watched.append(tell)


def _stop_watching() -> None:
    """In a child: it has no such thread, and is not to tell its parent's."""
    if _watched:
        os.close(_watched.pop())
        signal.set_wakeup_fd(-1)


def _end_at_second(told: int) -> None:
    """End the process when a second signal has come, and the grace after the first is over."""
    end = None
    with open(told, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if signal.getsignal(number[0]) is not _on_signal:
                continue
            if end is not None:
                time.sleep(max(0.0, end - time.monotonic()))
                os._exit(128 + number[0])
            end = time.monotonic() + _GRACE_SECONDS
