"""Chunks on Ray Data."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from vitsd_runtime.batch.storage import check_reachable, need_package
from vitsd_runtime.batch.work import Done, Work
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.system.text import first_line, printable

_MAX_BLOCKS = 10_000
"""Ray's driver keeps track of each; the chunks of one are done one after the other."""


class Cluster:
    """Workers in a cluster of Ray; use with ``with``.

    Each is an actor that reads, answers and writes. There are no tasks that only read: where
    actors take all the CPUs, such tasks would wait for ever, and the actors for them.

    Args:
        address: of the cluster; None: the one that the program uses already, that of RAY_ADDRESS,
            the one that runs on this machine, or a new one here.
        workers: at most so many; None: as many as there are CPUs.
        num_threads: CPUs of each.

    Raises:
        VitsdError: Ray is missing, or can't be reached.
    """

    def __init__(self, address: str | None, workers: int | None, num_threads: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        self._ray: Any = need_package("ray", "ray.data")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self._is_ours = address is not None or not self._ray.is_initialized()
        if self._is_ours:
            self._connect(address)
        self._num_threads = num_threads
        self._quiet = contextlib.redirect_stdout(sys.stderr)
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        self.workers = workers or max(cpus // num_threads, 1)

    def __enter__(self) -> Cluster:
        """Itself. What Ray says of lost workers goes to stderr until the end."""
        self._quiet.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        """Leave the cluster, unless the program used it before; one that was started here ends."""
        if self._is_ours:
            self._ray.shutdown()
        self._quiet.__exit__(None, None, None)

    def _connect(self, address: str | None) -> None:
        check_reachable("Ray", address or "")
        try:
            with quiet_stderr(), _own_end():
                self._ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
        except (self._ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
            raise VitsdError(f"Ray can't be reached: {first_line(error)}") from error

    def map(self, work: Work, chunks: Sequence[str]) -> Iterator[Done]:
        """What became of each chunk, as they are done.

        Raises:
            VitsdError: Ray gives up.
        """
        data = self._ray.data
        data.DataContext.get_current().enable_progress_bars = False
        blocks = min(len(chunks), _MAX_BLOCKS)
        answers = data.from_items(
            [{"chunk": chunk} for chunk in chunks], override_num_blocks=blocks
        )
        answers = answers.map(
            _Actor,
            fn_constructor_args=(work,),
            num_cpus=self._num_threads,
            # Where there are fewer CPUs than that, the first ones begin.
            concurrency=(1, min(self.workers, blocks)),
        )
        try:
            yield from answers.iter_rows()
        except self._ray.exceptions.RayError as error:
            raise VitsdError(f"Ray gave up: {printable(_cause(error))}") from error


@contextlib.contextmanager
def _own_end() -> Iterator[None]:
    """Keep the program's own handler of SIGTERM: Ray puts two in its place, one prints a trace."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class _Actor:
    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: dict[str, str]) -> Done:
        return self._work(row["chunk"])


def _cause(error: BaseException) -> str:
    return first_line(getattr(error, "cause", None) or error)
