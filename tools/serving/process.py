"""``vitsd-serve`` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """A server that runs until the end of a ``with`` block.

    Args:
        words: of its command line; the port is a free one unless they say otherwise.
        environment: more variables for it.
        before: called in the new process before it starts.

    Raises:
        RuntimeError: it ends before it serves.
    """

    def __init__(
        self,
        *words: object,
        environment: dict[str, str] | None = None,
        before: Callable[[], object] | None = None,
    ) -> None:
        self._words = [sys.executable, "-m", "vitsd_runtime.cli.serve", "--port", "0"]
        self._words += map(str, words)
        self._environment, self._before = environment or {}, before
        self.log: list[str] = []
        """What it printed, line by line."""
        self._printed = threading.Condition()

    def __enter__(self) -> ServerProcess:
        # An empty entry would stand for the current folder, which may be gone.
        paths = [str(_ROOT / "runtime" / "src"), os.environ.get("PYTHONPATH")]
        self.process = subprocess.Popen(
            self._words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                **self._environment,
            },
            preexec_fn=self._before,
        )
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self._reader.start()
        try:
            self.host, port = self.wait_for(r"Serving at http://(.*):(\d+)")
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        self.port = int(port)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(signal.SIGKILL)

    def wait_for(self, pattern: str, seconds: float = 60) -> tuple[str, ...]:
        """Groups of the first line of the log, now or later, that a pattern is found in.

        Raises:
            RuntimeError: there is none in this time, or before the end.
        """

        def found() -> list[re.Match[str]]:
            return [match for line in self.log if (match := re.search(pattern, line))]

        with self._printed:
            self._printed.wait_for(lambda: found() or self.ended, seconds)
            if not found():
                raise RuntimeError(f"no {pattern!r} in the server's log: {self.log}")
            return found()[0].groups()

    ended = False
    """Whether the log is at its end."""

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait()
        self._reader.join()
        return code

    def memory_mb(self) -> float:
        """That is resident now, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in text.splitlines() if "VmRSS" in line)

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._printed:
                    self.log.append(line.rstrip("\n"))
                    self._printed.notify_all()
        with self._printed:
            self.ended = True
            self._printed.notify_all()
