"""What a run has measured so far, so that a run that was cut off can go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitsd_runtime.system.files import atomic_write


class Phases:
    """Results by the phase's name, in a file that is written after each.

    Args:
        path: of the JSON file.
        resume: whether to take what is there; otherwise all phases run again.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        if resume and path.exists():
            self._found = json.loads(path.read_text())

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """The phase's result; measured now, and written, unless it is there.

        Args:
            name: of the phase.
            measure: returns what JSON can hold.
        """
        if name not in self._found:
            print(f"{name} ...", flush=True)
            self._found[name] = measure()
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps(self._found, indent=1) + "\n")
        return self._found[name]
