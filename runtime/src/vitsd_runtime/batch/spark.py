"""Chunks on Spark."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from functools import partial
from typing import Any

from vitsd_runtime.batch.storage import check_reachable, need_package
from vitsd_runtime.batch.work import TRIES, Done, Work
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.system.text import first_line, printable

_MASTER = (
    r"local(\[(\d+|\*)(, *\d+)?\])?|local-cluster\[[\d, ]+\]|yarn|k8s://.+"
    r"|spark://[^,]+:\d+(,[^,]+:\d+)*"
)
_LOOK_SECONDS = 0.5
"""Between two looks at what is done."""


class Cluster:
    """Executors in a cluster of Spark; use with ``with``.

    Args:
        address: its master; None: the one that the program uses already, what ``spark-submit`` or
            ``spark-defaults.conf`` say, or this machine.
        workers: tasks at the same time; None: as many as there are CPUs.
        num_threads: CPUs of each.

    Raises:
        UsageError: no master has such an address.
        VitsdError: Spark is missing, can't be started or reached.
    """

    def __init__(self, address: str | None, workers: int | None, num_threads: int) -> None:
        pyspark = need_package("spark", "pyspark")
        _check_master(address)
        here = workers or max(usable_cores() // num_threads, 1)
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        settings = pyspark.SparkConf()
        if address is not None:
            settings.setMaster(address)
        elif not settings.contains("spark.master"):
            settings.setMaster(f"local[{here * num_threads},{TRIES}]")
            settings.set("spark.driver.host", "localhost").set("spark.ui.enabled", "false")
        settings.setAppName("vitsd-predict")
        settings.set("spark.task.cpus", str(num_threads))
        settings.set("spark.task.maxFailures", str(TRIES))
        settings.setIfMissing("spark.log.level", "ERROR")
        settings.setIfMissing("spark.ui.showConsoleProgress", "false")
        if workers is not None:
            settings.set("spark.cores.max", str(workers * num_threads))
            settings.set("spark.executor.instances", str(workers))
        try:
            with quiet_stderr():  # which is that of the JVM and its workers, too
                self._context, self._is_ours = _connect(pyspark, settings)
        except Exception as error:  # Java is missing, or what the JVM says
            raise VitsdError(f"Spark can't be started: {_cause(error)}") from error
        self.workers = workers or max(self._context.defaultParallelism // num_threads, 1)
        # What tasks that succeed add is counted once.
        self._done = self._context.accumulator((), pyspark.accumulators.AddingAccumulatorParam(()))

    def __enter__(self) -> Cluster:
        """Itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Leave the cluster, unless the program used it before, whatever is being done there."""
        if self._is_ours:
            self._context.stop()

    def map(self, work: Work, chunks: Sequence[str]) -> Iterator[Done]:
        """What became of each chunk, as they are done.

        Raises:
            VitsdError: Spark gives up.
        """
        done = self._done
        job = self._context.parallelize(chunks, len(chunks)).foreach
        seen = 0
        with ThreadPoolExecutor(1) as background:
            running = background.submit(job, partial(_do, work, done))
            try:
                while not _is_over(running):
                    new = done.value[seen:]
                    seen += len(new)
                    yield from new
            except BaseException:
                with contextlib.suppress(Exception):  # it may have stopped
                    self._context.cancelAllJobs()
                raise
            yield from done.value[seen:]


def _connect(pyspark: Any, settings: Any) -> tuple[Any, bool]:
    """A context, and whether it is a new one: a program may have one, and only one."""
    try:
        return pyspark.SparkContext(conf=settings), True
    except ValueError:
        return pyspark.SparkContext.getOrCreate(), False


def _check_master(address: str | None) -> None:
    if address is None:
        return
    if not re.fullmatch(_MASTER, address):
        raise UsageError(
            f"{printable(address)} is no `address` of a Spark master: use spark://HOST:PORT, yarn, "
            "k8s://HOST:PORT or local[N]."
        )
    if address.startswith("spark://") and "," not in address:
        check_reachable("Spark", address)


def _do(work: Work, done: Any, chunk: str) -> None:
    done.add((work(chunk),))


def _is_over(job: Future[Any]) -> bool:
    """Wait a moment for the end of a job."""
    try:
        error = job.exception(_LOOK_SECONDS)
    except TimeoutError:
        return False
    if error is not None:
        raise VitsdError(f"Spark gave up: {_cause(error)}") from error
    return True


def _cause(error: BaseException) -> str:
    """What the JVM says is in the second line, after what of it was called."""
    _, _, said = str(error).partition("\n: ")
    cause = printable(said.splitlines()[0]) if said else first_line(error)
    return f"{cause} Spark needs Java 17." if "JAVA_GATEWAY_EXITED" in cause else cause
