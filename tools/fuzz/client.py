"""The server from the side that makes the inputs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = [str(_ROOT / name / "src") for name in ("runtime", "vitsd", "export")]
_ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(_SOURCES),
    "PYTHONDONTWRITEBYTECODE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "MALLOC_CHECK_": "3",
}


class Limits(NamedTuple):
    """Of one input."""

    seconds: float
    megabytes: int


class Server:
    """A process that tries inputs; it is started anew if it ends.

    Args:
        python: that runs it.
        group: of modules that it imports.
        limits: of each input.
    """

    def __init__(self, python: str, group: str, limits: Limits) -> None:
        self._words = [python, __file__.replace("client", "server"), group, *map(str, limits)]
        self._errors = os.fdopen(os.memfd_create("errors"), "r+", errors="replace")
        self._start()

    def ask(self, kind: str, path: Path) -> dict[str, Any]:
        """What becomes of an input."""
        answer: dict[str, Any] | None = self._exchange({"kind": kind, "path": str(path)})
        if answer is None:
            self.close()
            detail = f"of the server ({self._process.returncode}): {self._last_words()}"
            self._start()
            return {"outcome": "crash", "detail": detail, "seconds": 0, "megabytes": 0}
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **_ENVIRONMENT},
        )
        if self._read() is None:
            raise RuntimeError(f"{' '.join(self._words)} did not start")

    def _last_words(self) -> str:
        self._errors.seek(0)
        return " ".join(self._errors.read().splitlines()[-3:])[-500:]

    def _exchange(self, request: dict[str, str]) -> Any:
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return None
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None
