"""Options of a training that is distributed over processes, and how each of these ends."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import ClassVar

from vitsd.training.distribution import ALONE, ProcessGroup
from vitsd_runtime.cli.options import flag_of, positive_int, type_of
from vitsd_runtime.errors import UsageError
from vitsd_runtime.validation import Option

_ADDRESSING = ("coordinator", "num_processes", "process_id")
_INDEX = Option("from 0, of this process", int, at_least=0)
_WATCHER = "import sys; sys.stdin.buffer.read(1) or print(sys.argv[1], file=sys.stderr)"
_APART = (
    "vitsd-train: error: the processes did not come together, and JAX, or somebody, ended this one "
    "while it waited. Look whether all of them run, and reach the port of --coordinator."
)
_ABRUPT_END = (
    "vitsd-train: error: process {} was ended: by JAX if another one was lost, else from outside. "
    "See what the others say, and start all of them again with --resume."
)


class _Ending:
    """The child that says so if this process is ended without Python; None: not distributed."""

    watcher: ClassVar[subprocess.Popen[bytes] | None] = None


def add_distribution_options(parser: argparse.ArgumentParser) -> None:
    """``--distribute``, and where the processes are."""
    group = parser.add_argument_group(
        "several processes",
        "Start the same command in all of them. Without further options they are found in Keras' "
        "or JAX' environment variables, or from Slurm, Open MPI or Kubernetes.",
    )
    group.add_argument(
        "--distribute",
        action="store_true",
        help="share each batch among the devices of several processes, on JAX",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0, where a port must be free"
    )
    group.add_argument(
        "--num-processes",
        type=positive_int,
        metavar="N",
        help="how many there are; 1: all devices of this machine",
    )
    group.add_argument(
        "--process-id",
        type=type_of(_INDEX),
        metavar="I",
        help="from 0, of this one; process 0 writes all files",
    )


def join(arguments: argparse.Namespace) -> ProcessGroup:
    """The processes that train together; chooses JAX, and silences all processes but the first.

    Raises:
        UsageError: options don't fit each other, or the processes can't be found.
        VitsdError: they did not come together.
    """
    if not arguments.distribute:
        for name in _ADDRESSING:
            if getattr(arguments, name) is not None:
                raise UsageError(f"{flag_of(name)} is for `distribute`.")
        return ALONE
    if os.environ.setdefault("KERAS_BACKEND", "jax") != "jax":
        raise UsageError(
            f"`distribute` works on JAX alone, not on {os.environ['KERAS_BACKEND']!r:.80}: "
            "`backend=jax`."
        )
    with _waiting():
        group = ProcessGroup.join(*(getattr(arguments, name) for name in _ADDRESSING))
    if group.size > 1:
        _Ending.watcher = _watch(_ABRUPT_END.format(group.index))
    if not group.is_first:
        for name in ("vitsd", "vitsd_runtime"):
            logging.getLogger(name).setLevel(logging.ERROR)
    return group


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    """Let signals end the process at once: JAX waits for the others where Python handles none.

    The handlers are back at the end. JAX has taken SIGTERM then, and does nothing about it.
    """
    child = _watch(_APART)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    caught = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)
        child.communicate(b".")


def end(code: int) -> None:
    """End this process now if it is one of several and failed: JAX would wait for lost ones.

    To be called last.
    """
    if _Ending.watcher is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _Ending.watcher.communicate(b".")
    if code:
        os._exit(code)


def _watch(message: str) -> subprocess.Popen[bytes]:
    """Have a message said on stderr if this process is ended before the child is told a byte.

    JAX aborts a process that has lost another one, or waited in vain, which runs no Python.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHER, message],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )
