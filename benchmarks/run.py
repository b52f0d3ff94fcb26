"""``make bench``: what is promised about speed and size, measured on this machine.

Writes benchmarks/results/MACHINE.json and prints a table. Models that are compared run in turns,
because machines are noisy: judge by the ratios. Latency does not depend on the weights' values, so
the models are untrained, except in the section ``quantization``, which needs a model trained with
``vitsd-train`` and its dataset.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sections import NAMES, Request, Results
from vitsd.backend import load_keras
from vitsd_runtime.cli import app
from vitsd_runtime.system.machine import describe_machine
from vitsd_runtime.system.text import table

RESULTS = Path(__file__).resolve().with_name("results")
HEADERS = ["section", "what", "measured", "promised"]


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measure on this machine what is promised about speed and size.",
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, help="sections to run (default: all)"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL.keras",
        help="trained model for the section quantization (else it is left out)",
    )
    parser.add_argument(
        "--data", metavar="SOURCE", help="its dataset (default: what it was trained on)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON file (default: benchmarks/results/MACHINE.json)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-export")


def _main(arguments: argparse.Namespace) -> None:
    # Else TensorFlow's converter adds a handler that shows every logged line once more.
    logging.getLogger().addHandler(logging.NullHandler())
    machine = describe_machine()
    output = arguments.output or RESULTS / f"{_file_name(machine)}.json"
    report = _previous(output)
    report["machine"] = machine
    load_keras()
    rows = []
    for name in arguments.only:
        if name == "quantization" and not arguments.model:
            print(f"{name} left out: it needs --model, a model.keras trained with vitsd-train")
            continue
        print(f"{name} ...", flush=True)
        report[name] = _run_section(name, arguments)
        rows += [[name, *row] for row in report[name]["summary"]]
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows, HEADERS))
    print(
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}. Details: {output}"
    )


def _previous(output: Path) -> dict[str, Any]:
    """The results so far: sections that are not run stay."""
    if not output.exists():
        return {"command": "make bench"}
    results: dict[str, Any] = json.loads(output.read_text())
    return results


def _run_section(name: str, arguments: argparse.Namespace) -> Results:
    # Sections load Keras and TensorFlow, so only those that are wanted are imported.
    section = importlib.import_module(f"benchmarks.sections.{name}")
    with tempfile.TemporaryDirectory() as scratch:
        request = Request(Path(scratch), RESULTS, arguments.model, arguments.data)
        results: Results = section.run(request)
    return results


def _file_name(machine: dict[str, Any]) -> str:
    text = f"{machine['cpu']} {machine['cores']} cores".lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


if __name__ == "__main__":
    sys.exit(main())
