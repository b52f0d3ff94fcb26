"""Try inputs in forked processes with limits; the modules are imported once.

A program of its own, because it may run under another Python, with other engines, than the one that
makes the inputs. Requests come as lines of JSON on stdin, answers leave as such on stdout.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.fuzz import target

_LOOK_EVERY = 0.02
"""Seconds between two looks at a process's memory."""


def main() -> None:
    """Answer until stdin ends."""
    group, seconds, megabytes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for module in target.MODULES[group]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    with tempfile.TemporaryFile() as messages:
        for line in sys.stdin:
            answer = try_input(json.loads(line), messages, (seconds, megabytes))
            print(json.dumps(answer), file=answers, flush=True)


def try_input(
    request: dict[str, Any], messages: IO[bytes], limits: tuple[float, int]
) -> dict[str, Any]:
    """Run one input in a process of its own; returns what became of it."""
    messages.seek(0)
    messages.truncate()
    results, sent = os.pipe()
    start, baseline = time.monotonic(), _resident(os.getpid(), "RssAnon")
    child = os.fork()
    if child == 0:
        _run(request["kind"], Path(request["path"]), messages, sent)
    os.close(sent)
    fault = _watch(child, start + limits[0], baseline + limits[1])
    _, status, usage = os.wait4(child, 0)
    with os.fdopen(results, "rb") as received:
        content = received.read()
    peak = (usage.ru_maxrss >> 10) - baseline
    answer = {"seconds": round(time.monotonic() - start, 3), "megabytes": max(0, peak)}
    if fault or peak > limits[1]:
        return {**answer, "outcome": fault or "memory", "detail": ""}
    if content:
        return {**answer, **json.loads(content)}
    messages.seek(0)
    return {**answer, "outcome": "crash", "detail": _describe(status, messages.read())}


def _run(kind: str, path: Path, messages: IO[bytes], sent: int) -> None:
    """In the child: what native code prints is kept for the description of a crash."""
    try:
        os.dup2(messages.fileno(), 2)
        faulthandler.enable(messages)  # the descriptor 2 may be redirected
        content = json.dumps(target.outcome(kind, path)).encode()
        os.write(sent, content)
    finally:
        os._exit(0)


def _watch(child: int, end: float, megabytes: int) -> str:
    """Wait until the process ends, or end it and return its fault."""
    ended = os.pidfd_open(child)
    try:
        while not select.select([ended], [], [], _LOOK_EVERY)[0]:
            late = time.monotonic() > end
            if late or _resident(child) > megabytes:
                os.kill(child, signal.SIGKILL)
                return "hang" if late else "memory"
        return ""
    finally:
        os.close(ended)


def _resident(process: int, kind: str = "VmRSS") -> int:
    """Memory of a process, in MiB; of kind ``RssAnon``, that which a child starts with."""
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
