"""``make bench-peers``: our files beside what people would use instead, in one table.

Writes JSON and one HTML page that needs nothing else. Every time stands beside the accuracy of the
same file: a fast file that answers otherwise is no competitor.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import goals, limits
from benchmarks.peers.install import MISSING
from benchmarks.peers.page import write_page
from benchmarks.peers.phases import Phases
from benchmarks.peers.prepare import prepare
from benchmarks.peers.profiles import profile_apart
from benchmarks.peers.race import Process, SubjectError, ask_all, race, timing
from benchmarks.peers.registry import all_subjects
from benchmarks.peers.subject import Subject, find
from benchmarks.peers.workshop import Workshop
from vitsd.evaluation.metrics import agreement, paired_difference, top_k_hits
from vitsd_runtime.cli import app
from vitsd_runtime.cli.options import positive_int, positive_number
from vitsd_runtime.system.machine import describe_machine
from vitsd_runtime.system.text import table

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("vit-edge-cifar100", "vit-small-ds")
BATCHES = (1, 32)
PROFILED = (
    "vitsd TFLite int8",
    "TFLiteConverter dynamic",
    "vitsd ONNX float32",
    "onnxruntime, Keras ONNX float32",
)
EQUAL_POINTS = 0.5
"""Files within so much of Keras' accuracy, in percentage points, are competitors."""
EQUAL_AGREEMENT = 0.9
"""Where there are no labels: what fraction of the answers must be Keras'."""
HEADERS = ["subject", "MB", "batch 1, ms", "batch 32, ms/image", "top-1 %", "agrees %", ""]
_QUICK = {"images": 500, "rounds": 5}
_FULL = {"images": 10_000, "rounds": 10}
_TURN_SECONDS = {1: 0.15, 32: 0.4}
_THREADS = 2
Report = dict[str, Any]


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="bench-peers", description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="presets, or trained models")
    parser.add_argument("--data", metavar="SOURCE", help="labeled images of the trained models")
    parser.add_argument("--only", metavar="TEXT", default="", help="subjects with TEXT in the name")
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    parser.add_argument(
        "--images", type=positive_int, metavar="N", help="to be answered (default: 10000)"
    )
    parser.add_argument(
        "--limit",
        type=positive_number,
        default=600,
        metavar="SECONDS",
        help="for making one file, and for its answers; what takes longer is left out "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep what a run that was cut off has measured"
    )
    parser.add_argument(
        "--files",
        type=Path,
        metavar="FOLDER",
        default=ROOT / "benchmarks" / "peers-files",
        help="where files are made; those that are there are used again (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=ROOT / "benchmarks" / "results",
        help="for peers.json and peers.html (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-export")


def _main(arguments: argparse.Namespace) -> None:
    effort = dict(_QUICK if arguments.quick else _FULL)
    effort["images"] = arguments.images or effort["images"]
    subjects = [subject for subject in all_subjects() if arguments.only in subject.name]
    arguments.output.mkdir(parents=True, exist_ok=True)
    phases = Phases(arguments.output / "peers-phases.json", arguments.resume)
    report: Report = {
        "command": "make bench-peers",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": describe_machine(),
        "missing": json.loads(MISSING.read_text()) if MISSING.exists() else {},
        "limits": phases.once("limits of the core", limits.measure_limits),
        "models": [compare(name, arguments, subjects, effort, phases) for name in arguments.models],
    }
    report["goals"] = [row for model in report["models"] for row in goals.judge(model)]
    (arguments.output / "peers.json").write_text(json.dumps(report, indent=1) + "\n")
    write_page(report, arguments.output / "peers.html")
    for model in report["models"]:
        print(f"\n{model['name']}, one thread, {model['images']} images")
        print(table([_cells(row) for row in model["rows"]], HEADERS))
    print(table(report["goals"], ["model", "goal", "measured", "asked", ""]))
    print(f"Details: {arguments.output / 'peers.html'}")


def compare(
    name: str,
    arguments: argparse.Namespace,
    subjects: Sequence[Subject],
    effort: Mapping[str, int],
    phases: Phases,
) -> Report:
    """Build all subjects for one model, ask them, and run them in turns."""
    print(f"{name}: images ...", flush=True)
    workshop = prepare(name, arguments.data, effort["images"], arguments.files.resolve() / name)
    rows, skipped = phases.once(
        f"{name}: files and answers", lambda: _answers(workshop, subjects, arguments.limit)
    )
    ready = [find(subjects, row["subject"]) for row in rows]
    timings, failed = _timings(workshop.folder, ready, effort["rounds"], phases)
    skipped |= failed
    for row in rows:
        row["timings"] = [t for t in timings if t["subject"] == row["subject"]]
    profiles = phases.once(f"{name}: profiles", lambda: _profiles(workshop, rows))
    rows = [row for row in rows if row["timings"]]
    for row in rows:
        del row["path"]  # says nothing to who reads the report elsewhere
    rows.sort(key=lambda row: time_of(row) or np.inf)
    return {
        "name": name,
        "images": len(workshop.array("images")),
        "labeled": workshop.data is not None,
        "macs": limits.count_macs(workshop.config),
        "weights": workshop.config.parameter_count(),
        "rows": rows,
        "skipped": skipped,
        "profiles": profiles,
    }


def time_of(row: Report, batch: int = 1) -> float | None:
    """Median milliseconds of a run on one thread, if it was measured."""
    return timing(row, batch).get("p50_ms")


def _answers(
    workshop: Workshop, subjects: Sequence[Subject], limit: float
) -> tuple[list[Report], Report]:
    """Rows of the subjects that answer, and why the others don't."""
    workshop.plain_onnx()  # many build upon it, at the same time
    batches = {subject.name: ["1"] for subject in subjects}
    built = ask_all(workshop.folder, subjects, "build", batches, limit)
    skipped = {name: str(found) for name, found in built.items() if _failed(found)}
    able = [subject for subject in subjects if subject.name not in skipped]
    paths = {s.name: [str(workshop.folder / f"answers-{s.slug}.npy")] for s in able}
    missing = [subject for subject in able if not Path(paths[subject.name][0]).exists()]
    answered = ask_all(workshop.folder, missing, "answers", paths, limit)
    skipped |= {name: str(found) for name, found in answered.items() if _failed(found)}
    rows = []
    for subject in able:
        if subject.name not in skipped:
            logits = np.load(paths[subject.name][0])
            accuracy = _accuracy(workshop, logits)
            rows.append({**_describe(subject), **built[subject.name][0], **accuracy})
    return rows, skipped


def _failed(found: object) -> bool:
    return isinstance(found, SubjectError)


def _profiles(workshop: Workshop, rows: Sequence[Report]) -> Report:
    """Milliseconds by kinds of operations, of our files and of the plain ones."""
    found = {}
    for row in rows:
        if row["subject"] in PROFILED:
            images = workshop.folder / "images.npy"
            found[row["subject"]] = profile_apart(Path(row["path"]), images)
    return found


def _describe(subject: Subject) -> Report:
    return {
        "subject": subject.name,
        "group": subject.group,
        "ours": subject.ours,
        "precision": subject.precision,
    }


def _accuracy(workshop: Workshop, logits: Any) -> Report:
    """Against Keras: agreement; with labels also accuracy and its change with a 95 % interval."""
    reference = workshop.array("reference")
    agrees = agreement(logits, reference)
    found: Report = {
        "agreement": agrees,
        "largest_difference": float(np.abs(logits - reference).max()),
        "right": agrees >= EQUAL_AGREEMENT,
    }
    if workshop.data:
        labels = np.asarray(workshop.array("labels"))
        hits, expected = (top_k_hits(each, labels, 1) for each in (logits, reference))
        change = [100 * part for part in paired_difference(expected, hits)]
        found |= {"top1": 100 * float(hits.mean()), "top1_change": change}
        # Of few images, half a point is a matter of chance.
        found["right"] = change[0] >= -max(EQUAL_POINTS, (change[2] - change[1]) / 2)
    return found


def _timings(
    folder: Path, subjects: Sequence[Subject], rounds: int, phases: Phases
) -> tuple[list[Report], Report]:
    """One thread for all, several for the fastest of each group; and why some did not end."""

    def measure(threads: int, chosen: Iterable[Subject]) -> tuple[list[Report], Report]:
        timings, failed = phases.once(
            f"{folder.name}: in turns, threads: {threads}",
            lambda: _race(folder, chosen, threads, rounds),
        )
        return timings, {f"{name}, threads: {threads}": why for name, why in failed.items()}

    timings, failed = measure(1, subjects)
    single = {t["subject"]: t["p50_ms"] for t in timings if t["batch"] == BATCHES[0]}
    fastest: dict[str, Subject] = {}
    for subject in sorted(subjects, key=lambda s: single.get(s.name, np.inf), reverse=True):
        fastest[subject.group] = subject
    more, failed_too = measure(_THREADS, fastest.values())
    return timings + more, failed | failed_too


def _race(
    folder: Path, subjects: Iterable[Subject], threads: int, rounds: int
) -> tuple[list[Report], Report]:
    """What was measured, and why some did not end."""
    processes = []
    failed: dict[str, str] = {}
    try:
        for subject in subjects:
            batches = BATCHES if subject.batched else BATCHES[:1]
            try:
                processes.append(Process(folder, subject, threads, batches))
            except SubjectError as error:
                failed[subject.name] = str(error)
        rows = [
            racer.row()
            for batch in BATCHES
            for racer in race(processes, batch, _TURN_SECONDS[batch], rounds, failed)
        ]
        return rows, failed
    finally:
        for process in processes:
            process.close()


def _cells(row: Report) -> list[str]:
    single, many = time_of(row, 1), time_of(row, 32)
    return [
        row["subject"],
        f"{row['bytes'] / 1e6:.2f}",
        f"{single:.3f}" if single else "",
        f"{many / 32:.3f}" if many else "",
        f"{row['top1']:.2f}" if "top1" in row else "",
        f"{100 * row['agreement']:.1f}",
        "" if row["right"] else "WRONG",
    ]


if __name__ == "__main__":
    sys.exit(main())
