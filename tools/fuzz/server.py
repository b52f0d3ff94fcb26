"""Try inputs in forked processes with limits; the modules are imported once.

A program of its own, because it may run under another Python, with other engines, than the one that
makes the inputs. Requests come as lines of JSON on stdin, answers leave as such on stdout.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.fuzz import target

_LOOK_EVERY = 0.02
"""Seconds between two looks at a process's memory."""
_INPUTS_PER_PROCESS = 200
"""A fork, and the first use of every library in it, take longer than most inputs."""
_PATIENCE = 4
"""Times the CPU time that is allowed: after that long, a process waits for what never comes."""
_GROWTH = 0.2
"""Part of the memory limit: what a process may keep of its inputs before it is replaced."""


def main() -> None:
    """Answer until stdin ends."""
    group, seconds, megabytes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for module in target.MODULES[group]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()  # or each process would copy the memory of all modules when it collects
    print(json.dumps({"ready": True}), file=answers, flush=True)
    with Trials(seconds, megabytes, target.START.get(group)) as trials:
        for line in sys.stdin:
            print(json.dumps(trials.answer(json.loads(line))), file=answers, flush=True)


class _Child(NamedTuple):
    """A forked process that tries inputs, one after the other."""

    process: int
    ended: int
    """A descriptor that is readable once the process has ended."""
    requests: IO[str]
    answers: IO[str]
    megabytes: int
    """Memory that it began with."""


class Trials:
    """Inputs in forked processes; a fault ends the process, and so do many inputs.

    Args:
        seconds: of CPU time after which an input is a hang; other processes may slow it down.
        megabytes: of memory that an input may take.
        start: called in each process before its first input, for what is not to be counted.
    """

    def __init__(
        self, seconds: float, megabytes: int, start: Callable[[], None] | None = None
    ) -> None:
        self._seconds, self._megabytes, self._start = seconds, megabytes, start
        self._messages = os.fdopen(os.memfd_create("messages"), "w+b")
        self._child: _Child | None = None
        self._tried = 0

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()
        self._messages.close()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Try an input; returns what became of it."""
        alone = self._tried == 0
        answer = self._try(request)
        if answer["outcome"] != "crash" or alone:
            return answer
        # An earlier input may have damaged the memory of the process.
        again = self._try(request)
        if again["outcome"] == "crash":
            return again
        return {**answer, "detail": f"only after other inputs: {answer['detail']}"}

    def _try(self, request: dict[str, Any]) -> dict[str, Any]:
        self._messages.seek(0)
        self._messages.truncate()
        if self._child is None:
            self._child = self._fork()
        child, start, before = self._child, time.monotonic(), _resident(self._child.process)
        Path(f"/proc/{child.process}/clear_refs").write_text("5")  # the peak begins anew
        print(json.dumps(request), file=child.requests, flush=True)
        fault = self._watch(child, start, before + self._megabytes)
        content = "" if fault else child.answers.readline()
        peak = max(0, _resident(child.process, "VmHWM") - before)
        answer = {"seconds": round(time.monotonic() - start, 3), "megabytes": peak}
        self._tried += 1
        if fault or peak > self._megabytes:
            self._end()
            return {**answer, "outcome": fault or "memory", "detail": ""}
        if not content:
            status = self._end()
            self._messages.seek(0)
            return {
                **answer,
                "outcome": "crash",
                "detail": _describe(status, self._messages.read()),
            }
        kept = _resident(child.process) - child.megabytes
        if self._tried >= _INPUTS_PER_PROCESS or kept > _GROWTH * self._megabytes:
            self._end()
        return {**answer, **json.loads(content)}

    def _fork(self) -> _Child:
        requests, sent = os.pipe()
        answers, answered = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(sent)
            os.close(answers)
            self._work(os.fdopen(requests), answered)
        os.close(requests)
        os.close(answered)
        received = os.fdopen(answers)
        if not received.readline():
            status = os.waitpid(process, 0)[1]
            self._messages.seek(0)
            raise RuntimeError(f"did not start: {_describe(status, self._messages.read())}")
        ended = os.pidfd_open(process)
        return _Child(process, ended, os.fdopen(sent, "w"), received, _resident(process))

    def _work(self, requests: IO[str], answered: int) -> None:
        """In the child: what native code prints is kept for the description of a crash."""
        try:
            os.dup2(self._messages.fileno(), 2)
            faulthandler.enable(self._messages)  # the descriptor 2 may be redirected
            if self._start is not None:
                self._start()
            os.write(answered, b"ready\n")
            for line in requests:
                request = json.loads(line)
                outcome = target.outcome(request["kind"], Path(request["path"]))
                os.write(answered, json.dumps(outcome).encode() + b"\n")
        finally:
            os._exit(0)

    def _watch(self, child: _Child, start: float, megabytes: int) -> str:
        """Wait until the process answers or ends, or end it and return its fault."""
        busy = _cpu_seconds(child.process)
        signs = [child.answers.fileno(), child.ended]
        while not select.select(signs, [], [], _LOOK_EVERY)[0]:
            late = (
                _cpu_seconds(child.process) - busy > self._seconds
                or time.monotonic() - start > _PATIENCE * self._seconds
            )
            if late or _resident(child.process) > megabytes:
                os.kill(child.process, signal.SIGKILL)
                return "hang" if late else "memory"
        return ""

    def _end(self) -> int:
        """End the process, if there is one; returns its status."""
        if self._child is None:
            return 0
        child, self._child, self._tried = self._child, None, 0
        for pipe in (child.requests, child.answers):
            pipe.close()
        os.close(child.ended)
        return os.waitpid(child.process, 0)[1]


def _cpu_seconds(process: int) -> float:
    """Of all threads of a process, since it began."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(process: int, kind: str = "VmRSS") -> int:
    """Memory of a process, in MiB; of kind ``VmHWM``, the most that it had."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith(kind)), 0)


def _describe(status: int, messages: bytes) -> str:
    name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status}"
    lines = messages.decode(errors="replace").splitlines()
    place = next((line.strip() for line in lines if line.startswith('  File "')), "")
    last = next((line for line in reversed(lines) if line and not line.startswith(" ")), "")
    return f"{name} {place} {last if 'Extension modules' not in last else ''}"[:500]


if __name__ == "__main__":
    main()
