"""Subjects in turns, each in a process that is bound to its cores and waits meanwhile.

Machines are noisy: what is compared must be measured in the same rounds, and the ratio of two
subjects is that of each round, with an interval over the rounds.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np

from benchmarks.peers.subject import Subject
from vitsd_runtime.system.text import printable

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 60
_TURN_SECONDS = 30
_PAUSE_SECONDS = 0.02
"""Before each turn: the threads of the one before may look for work a while."""
_RESAMPLES = 2000


class SubjectError(Exception):
    """A subject can't be built or run; the text says why."""


@dataclass
class Racer:
    """One subject at one setting; times in ms."""

    subject: Subject
    threads: int
    batch: int
    load_ms: float
    rounds: list[list[float]] = field(default_factory=list)

    def medians(self) -> Any:
        """Of each round."""
        return np.array([np.median(times) for times in self.rounds])

    def row(self) -> dict[str, Any]:
        """What was measured."""
        times = np.concatenate(self.rounds)
        return {
            "subject": self.subject.name,
            "threads": self.threads,
            "batch": self.batch,
            "p10_ms": float(np.percentile(times, 10)),
            "p50_ms": float(np.median(times)),
            "p90_ms": float(np.percentile(times, 90)),
            "runs": len(times),
            "load_ms": self.load_ms,
            "rounds_ms": self.medians().tolist(),
        }


class Process:
    """A worker that waits between its turns."""

    def __init__(
        self, folder: Path, subject: Subject, threads: int, batches: Iterable[int]
    ) -> None:
        self.subject, self.threads = subject, threads
        names = [str(batch) for batch in batches]
        self._errors = (folder / f"{subject.slug}.log").open("w+", encoding="utf-8")
        self._child = subprocess.Popen(
            [*_command(folder, subject, threads), "run", *names],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        try:
            loads = self._answer(_START_SECONDS)
        except SubjectError:
            self.close()
            raise
        self.racers = [Racer(subject, threads, int(name), loads[name]) for name in names]

    def turn(self, racer: Racer, seconds: float) -> None:
        """Let it run at one setting; adds a round.

        Raises:
            SubjectError: it ended, or took too long and was ended.
        """
        time.sleep(_PAUSE_SECONDS)
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells
            self._child.stdin.write(json.dumps({"batch": racer.batch, "seconds": seconds}) + "\n")
            self._child.stdin.flush()
        racer.rounds.append(self._answer(_TURN_SECONDS))

    def close(self) -> None:
        """End it."""
        _end(self._child)
        self._errors.close()

    def _answer(self, seconds: float) -> Any:
        assert self._child.stdout is not None
        started = time.monotonic()
        timer = Timer(seconds, os.killpg, [self._child.pid, signal.SIGKILL])
        timer.start()
        line = self._child.stdout.readline()
        timer.cancel()
        if not line and time.monotonic() - started >= seconds:
            raise SubjectError(f"took over {seconds} seconds")
        if not line:
            self._errors.seek(0)
            raise SubjectError(_reason(self._errors.read(), self._child.wait()))
        return json.loads(line)


def race(
    processes: Sequence[Process], batch: int, seconds: float, rounds: int, failed: dict[str, str]
) -> list[Racer]:
    """Run all that take the batch size in turns, each round in another order.

    Args:
        processes: at least one.
        batch: images a run.
        seconds: a turn.
        rounds: turns of each.
        failed: takes the reasons of those that do not get to the end.
    """
    pairs = [(p, racer) for p in processes for racer in p.racers if racer.batch == batch]
    order = np.random.default_rng(0)
    for _ in range(rounds):
        for number in order.permutation(len(pairs)):
            process, racer = pairs[number]
            if process.subject.name in failed:
                continue
            try:
                process.turn(racer, seconds)
            except SubjectError as error:
                failed[process.subject.name] = str(error)
    return [racer for process, racer in pairs if process.subject.name not in failed]


def timing(row: Mapping[str, Any], batch: int, threads: int = 1) -> dict[str, Any]:
    """Of a row's ``timings``, what was measured at one setting; empty if nothing."""
    fitting = (t for t in row["timings"] if (t["batch"], t["threads"]) == (batch, threads))
    return next(fitting, {})


def ratio(slower: Sequence[float], faster: Sequence[float]) -> tuple[float, float, float]:
    """How many times faster, with its 95 % interval: a bootstrap over the rounds.

    Args:
        slower: medians of the rounds, in any unit.
        faster: of the other, of the same rounds.
    """
    logs = np.log(np.asarray(slower) / np.asarray(faster))
    random = np.random.default_rng(0)
    drawn = random.choice(logs, (_RESAMPLES, len(logs)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    middle, low, high = np.exp([np.median(logs), low, high])
    return float(middle), float(low), float(high)


def ask(folder: Path, subject: Subject, task: str, *rest: str, seconds: float) -> Any:
    """What a worker answers that does one task and ends.

    Raises:
        SubjectError: it failed, or took longer than so many seconds.
    """
    child = subprocess.Popen(
        [*_command(folder, subject, threads=1), task, *rest],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # the worker ends when this does: with this process
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    timer = Timer(seconds, os.killpg, [child.pid, signal.SIGKILL])
    timer.start()
    started = time.monotonic()
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    with ThreadPoolExecutor(1) as beside:
        errors = beside.submit(child.stderr.read)
        answer = child.stdout.read()
    returncode = child.wait()
    timer.cancel()
    child.stdin.close()
    if returncode and time.monotonic() - started >= seconds:
        raise SubjectError(f"took over {seconds:g} seconds")
    if returncode:
        raise SubjectError(_reason(errors.result(), returncode))
    return json.loads(answer)


def _end(child: subprocess.Popen[str]) -> None:
    """With all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def ask_all(
    folder: Path,
    subjects: Sequence[Subject],
    task: str,
    rest: Mapping[str, Sequence[str]],
    seconds: float,
) -> dict[str, Any]:
    """:func:`ask` for several, as many at once as there are cores; failures are values."""

    def one(subject: Subject) -> Any:
        try:
            return ask(folder, subject, task, *rest[subject.name], seconds=seconds)
        except SubjectError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip([s.name for s in subjects], pool.map(one, subjects), strict=True))


def _command(folder: Path, subject: Subject, threads: int) -> list[str]:
    module = ["-m", "benchmarks.peers.worker"]
    return [sys.executable, *module, str(folder), subject.name, str(threads)]


def _reason(errors: str, returncode: int) -> str:
    """The error's own line, as libraries log before it and after it; or how the process ended."""
    if returncode < 0:
        return f"the process was ended by {signal.Signals(-returncode).name}"
    lines = [line for line in errors.splitlines() if line.strip() and line[0] != " "]
    named = [line for line in lines if "Error" in line or "Failure" in line or "Exception" in line]
    return printable((named or lines or [f"the process ended with {returncode}"])[-1], 200)
