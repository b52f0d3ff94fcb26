"""One subject in a process of its own: made, asked for answers, or run in turns with others.

``python -m benchmarks.peers.worker FOLDER NAME THREADS build|answers|run [BATCH ...]`` talks in
lines of JSON: one that it is ready, and for ``run`` one answer to each order ``{"batch": n,
"seconds": s}``: the milliseconds of each run. It ends, with all that it has started, when its
standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

_CHUNK = 50
"""Images at once where time does not matter."""
_WARM_UP = 2
"""Runs of a turn that are not counted: the caches hold another model."""
_LEAST_RUNS = 3


def main(arguments: list[str]) -> None:
    """Do what the module's docstring says."""
    folder, name, threads, task, *batches = arguments
    say, orders = _speaker(), _orders()
    if task == "run":
        _bind(int(threads))
    worker = _Worker(Path(folder), name, int(threads))
    if task == "build":
        say([worker.build(int(batch)) for batch in batches])
    elif task == "answers":
        worker.write_answers(Path(batches[0]))
        say("done")
    else:
        say({batch: worker.load(int(batch)) for batch in batches})
        while True:
            say(worker.measure(**json.loads(orders.get())))


def _speaker() -> Any:
    """A function that writes a line of JSON; what libraries print goes to stderr from here on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(value: object) -> None:
        channel.write(json.dumps(value) + "\n")
        channel.flush()

    return say


def _orders() -> SimpleQueue[bytes]:
    """The lines of standard input; where it ends, so does the worker's group of processes."""
    lines: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        # Not sys.stdin: its lock, held while it waits, would keep the interpreter from ending.
        with open(0, "rb", buffering=0, closefd=False) as stream:
            for line in stream:
                lines.put(line)
        os.killpg(0, signal.SIGKILL)

    Thread(target=read, daemon=True).start()
    return lines


def _bind(threads: int) -> None:
    """To the last cores: the first one also serves most interrupts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


class _Worker:
    def __init__(self, folder: Path, name: str, threads: int) -> None:
        os.environ.update(OMP_NUM_THREADS=str(threads), TF_CPP_MIN_LOG_LEVEL="3")
        import numpy as np

        from benchmarks.peers.registry import all_subjects
        from benchmarks.peers.subject import find
        from benchmarks.peers.workshop import Workshop

        self._np = np
        self._subject = find(all_subjects(), name)
        self._workshop = Workshop(folder)
        self._threads = threads
        self._runs: dict[int, tuple[Any, Any]] = {}

    def build(self, batch: int) -> dict[str, Any]:
        """Make the file; returns its path and bytes."""
        path = self._subject.build(self._workshop, batch)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        # Weights beside a graph (.bin, .data) belong to it.
        files += [twin for twin in path.parent.glob(f"{path.stem}.*") if twin.suffix in _BESIDE]
        return {"path": str(path), "bytes": sum(file.stat().st_size for file in set(files))}

    def load(self, batch: int) -> float:
        """Start the engine, and run once; returns milliseconds."""
        images = self._np.ascontiguousarray(self._cycle(batch))
        path = Path(self.build(batch)["path"])
        start = time.perf_counter()
        run = self._subject.start(path, self._threads, batch)
        self._check(run(images), batch)
        elapsed = 1e3 * (time.perf_counter() - start)
        self._runs[batch] = run, images
        return elapsed

    def _cycle(self, batch: int) -> Any:
        images = self._workshop.array("images")
        return images[self._np.arange(batch) % len(images)]

    def _check(self, logits: Any, batch: int) -> None:
        classes = self._workshop.spec.num_classes
        if logits.shape != (batch, classes):
            raise ValueError(f"{self._subject.name} answers {logits.shape}")

    def measure(self, batch: int, seconds: float) -> list[float]:
        """Milliseconds of each run, for about ``seconds``."""
        run, images = self._runs[batch]
        for _ in range(_WARM_UP):
            run(images)
        times: list[float] = []
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline or len(times) < _LEAST_RUNS:
            start = time.perf_counter()
            run(images)
            times.append(1e3 * (time.perf_counter() - start))
        return times

    def write_answers(self, path: Path) -> None:
        """Write the logits of all test images."""
        np, images = self._np, self._workshop.array("images")
        batch = _CHUNK if self._subject.any_batch else 1
        run = self._subject.start(Path(self.build(1)["path"]), self._threads, batch)
        logits = [
            np.array(run(np.ascontiguousarray(images[start : start + batch])), np.float32)
            for start in range(0, len(images), batch)
        ]
        np.save(path, np.concatenate(logits))


_BESIDE = (".bin", ".data", ".weight")

if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1:])
