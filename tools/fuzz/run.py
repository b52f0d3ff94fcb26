"""``make fuzz``: thousands of hostile inputs of every kind, and what the code makes of them.

Each is tried in a process of its own with limits of time and memory. It must be answered or refused
with a clear error: anything else is a fault, is kept in a folder, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import logging
import queue
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.fuzz import inputs, samples, target
from tools.fuzz.client import Limits, Server
from vitsd_runtime.cli import app
from vitsd_runtime.cli.options import positive_int, positive_number, random_seed
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.text import printable, table

FAULTS = ("answer", "message", "traceback", "crash", "hang", "memory")
OUTCOMES = ("ok", "refused", *FAULTS)
_KEPT_OF_EACH = 3
"""Inputs that are kept of the same fault."""
_log = logging.getLogger("vitsd.tools.fuzz")


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="fuzz",
        description="Try hostile inputs; exit code 1 if one is neither answered nor refused.",
    )
    add = parser.add_argument
    add("--inputs", type=positive_int, default=20_000, metavar="N", help="in all (default: 20000)")
    add(
        "--seconds",
        type=positive_number,
        default=1800,
        metavar="S",
        help="stop after this (default: 1800)",
    )
    add(
        "--seed",
        type=random_seed,
        default=0,
        metavar="N",
        help="other inputs for each (default: 0)",
    )
    add("--only", metavar="KIND,KIND", help=f"some of {','.join(inputs.KINDS)} (default: all)")
    add("--python", default=sys.executable, help="that runs the inputs, maybe with other engines")
    add("--keep", type=Path, default=Path("fuzz"), metavar="DIR", help="for faults (default: fuzz)")
    add(
        "--samples",
        type=Path,
        metavar="DIR",
        help="keep and reuse the models that inputs are made from",
    )
    add("--jobs", type=positive_int, default=2, metavar="N", help="at the same time (default: 2)")
    add(
        "--timeout",
        type=positive_number,
        default=30,
        metavar="S",
        help="of CPU time; a hang takes more (default: 30)",
    )
    add(
        "--memory",
        type=positive_int,
        default=1024,
        metavar="MB",
        help="that an input may take (default: 1024)",
    )
    add("--replay", metavar="KIND:N", help="write this input to --keep, and say what becomes of it")
    add("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-runtime")


def _main(arguments: argparse.Namespace) -> int:
    kinds = choose_kinds(arguments.only)
    with contextlib.ExitStack() as stack:
        folder = arguments.samples or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _log.info("Making the models that inputs are made from ...")
        made = samples.make(folder)
        run = Run(arguments, made)
        if arguments.replay:
            return run.replay(arguments.replay)
        start = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):  # what was found until then is printed
            run.try_all(kinds)
    seconds = time.monotonic() - start
    if arguments.json:
        print(json.dumps(run.report(seconds), indent=1))
    else:
        run.print_table(seconds)
    return 1 if run.faults else 0


def choose_kinds(requested: str | None) -> Sequence[str]:
    """The kinds of inputs that are asked for, by default all.

    Raises:
        UsageError: there is no such kind.
    """
    kinds = requested.split(",") if requested else inputs.KINDS
    if unknown := sorted(set(kinds) - set(inputs.KINDS)):
        raise UsageError(
            f"There are no inputs of kind {unknown[0]!r}; use {', '.join(inputs.KINDS)}."
        )
    return kinds


class Run:
    """Inputs that are tried by several threads, and what became of them."""

    def __init__(self, arguments: argparse.Namespace, made: samples.Samples) -> None:
        self._arguments, self._samples = arguments, made
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        """By kind and outcome."""
        self.faults: collections.Counter[tuple[str, str, str]] = collections.Counter()
        """By kind, outcome and what tells faults apart."""
        self._slowest, self._largest = 0.0, 0

    def try_all(self, kinds: Sequence[str]) -> None:
        """Try as many inputs as there is time for, the kinds in turns."""
        waiting: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        for kind_and_number in inputs.numbered(kinds, self._arguments.inputs):
            waiting.put(kind_and_number)
        end = time.monotonic() + self._arguments.seconds
        with ThreadPoolExecutor() as pool:
            workers = [pool.submit(self._work, waiting, end) for _ in range(self._arguments.jobs)]
            try:
                for worker in as_completed(workers):
                    worker.result()
            finally:  # after Ctrl-C, or where one failed, the others stop too
                self._stopped.set()

    def replay(self, name: str) -> int:
        """Make an input once more, keep it, and print its outcome."""
        kind, _, number = name.partition(":")
        with self._servers() as servers:
            answer = self._try(servers, self._arguments.keep, kind, int(number))
        print(json.dumps(answer, indent=1))
        return 1 if answer["outcome"] in FAULTS else 0

    def report(self, seconds: float) -> dict[str, Any]:
        """For ``--json``."""
        kinds = {kind for kind, _ in self.counts}
        return {
            "inputs": self.counts.total(),
            "seconds": round(seconds),
            "slowest_seconds": self._slowest,
            "most_megabytes": self._largest,
            "outcomes": {k: {o: self.counts[k, o] for o in OUTCOMES} for k in sorted(kinds)},
            "faults": [
                {"kind": kind, "outcome": outcome, "what": what, "inputs": count}
                for (kind, outcome, what), count in self.faults.most_common()
            ],
        }

    def print_table(self, seconds: float) -> None:
        """Print outcomes by kind, then the faults, most frequent first."""
        report = self.report(seconds)
        outcomes = report["outcomes"]
        rows = [[kind, sum(row.values()), *row.values()] for kind, row in outcomes.items()]
        totals = [sum(row[i] for row in rows) for i in range(1, len(OUTCOMES) + 2)]
        print(table([*rows, ["all", *totals]], ["kind", "inputs", *OUTCOMES]))
        print(
            f"{self.counts.total()} inputs in {seconds:.0f} s; the slowest took "
            f"{self._slowest:.1f} s, the largest {self._largest} MB."
        )
        for fault in report["faults"]:
            print(f"{fault['inputs']:5d} {fault['kind']} {fault['outcome']}: {fault['what']}")
        if self.faults:
            print(f"Inputs of each are in {self._arguments.keep}.")

    def _work(self, waiting: queue.SimpleQueue[tuple[str, int]], end: float) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="vitsd-fuzz-") as folder,
            self._servers() as servers,
        ):
            while time.monotonic() < end and not self._stopped.is_set():
                try:
                    kind, number = waiting.get_nowait()
                except queue.Empty:
                    return
                self._count(kind, number, self._try(servers, Path(folder), kind, number))

    @contextlib.contextmanager
    def _servers(self) -> Iterator[dict[str, Server]]:
        servers: dict[str, Server] = {}
        try:
            yield servers
        finally:
            for server in servers.values():
                server.close()

    def _try(
        self, servers: dict[str, Server], folder: Path, kind: str, number: int
    ) -> dict[str, Any]:
        arguments = self._arguments
        name, content = inputs.make(self._samples, arguments.seed, kind, number)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_bytes(content)
        group = target.group(kind, path.suffix)
        if group not in servers:
            servers[group] = Server(
                arguments.python, group, Limits(arguments.timeout, arguments.memory)
            )
        return {**servers[group].ask(kind, path), "path": path}

    def _count(self, kind: str, number: int, answer: dict[str, Any]) -> None:
        outcome, path = answer["outcome"], answer["path"]
        with self._lock:
            self.counts[kind, outcome] += 1
            self._slowest = max(self._slowest, answer["seconds"])
            self._largest = max(self._largest, answer["megabytes"])
            if outcome not in FAULTS:
                return
            what = signature(answer["detail"])
            self.faults[kind, outcome, what] += 1
            if self.faults[kind, outcome, what] > _KEPT_OF_EACH:
                return
        kept = self._arguments.keep / outcome / f"{kind}-{self._arguments.seed}-{number}"
        kept.mkdir(parents=True, exist_ok=True)
        path.replace(kept / path.name)
        (kept / "what.txt").write_text(answer["detail"], encoding="utf-8", errors="replace")


def signature(detail: str) -> str:
    """What tells a fault from others: numbers and paths don't."""
    return re.sub(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"|/\S+/", "N", printable(detail, 160))


if __name__ == "__main__":
    sys.exit(main())
