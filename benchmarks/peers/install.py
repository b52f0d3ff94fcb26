"""Install what the comparison needs into the environment of the Python that runs this.

Each peer is installed apart, because most of them pin much. Writes what couldn't be installed, and
why, into ``peers-missing.json`` of the environment.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("-e", "./runtime[litert,onnx]", "-e", "./vitsd[tensorflow]", "-e", "./export")
SHARED = ("numpy", "onnxruntime")
"""What the project and its peers must have in one version."""
MISSING = Path(sys.prefix) / "peers-missing.json"
_SECONDS = 1800


def main() -> int:
    """Install the project, then each peer; returns 1 if the project can't be installed."""
    pins = _lines(Path(__file__).with_name("requirements.txt"))
    shared = [pin for pin in pins if _name(pin) in SHARED]
    names = {_name(pin) for pin in pins}
    rules = [rule for rule in _lines(ROOT / "constraints.txt") if _name(rule) not in names]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join([*rules, *pins]))
        if reason := _install([*PROJECT, *shared], constraints):
            print(f"the project can't be installed: {reason}", file=sys.stderr)
            return 1
        missing = {}
        for pin in pins:
            print(f"{pin} ...", flush=True)
            if reason := _install([pin], constraints):
                missing[_name(pin)] = reason
                print(f"  skipped: {reason}", flush=True)
    MISSING.write_text(json.dumps(missing, indent=1) + "\n")
    return 0


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def _install(requirements: Sequence[str], constraints: Path) -> str | None:
    """None, or the last line of why they can't be installed."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*pip, "-c", str(constraints), *requirements],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"pip took over {_SECONDS} seconds"
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or ["pip failed"])[-1].removeprefix("ERROR: ")


if __name__ == "__main__":
    sys.exit(main())
