"""``vitsd-bench --compare``: saved measurements side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitsd_runtime.benchmark import compare, read_results
from vitsd_runtime.system.machine import format_machine, format_thermal
from vitsd_runtime.system.text import first_few, printable, table

EMULATED = "The CPU is emulated: these times say nothing about a real one."
_FROM_REPORT = ("machine", "before", "after", "time", "vitsd_runtime")
_HEADERS = ("model", "threads", "batch", "file", "engine", "p50 ms", "speed")
_ACCURACY_HEADERS = ("top-1 %", "95 % interval")


def print_comparison(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print the files' machines, and a row for each of their results.

    Args:
        paths: of files that ``vitsd-bench --save`` wrote, anyone's.
        as_json: print JSON instead.

    Raises:
        UsageError: a file can't be read, or holds something else.
    """
    reports = [read_results(path) for path in paths]
    rows = compare(reports)
    if as_json:
        files = [
            {"file": str(path), **{name: report.get(name) for name in _FROM_REPORT}}
            for path, report in zip(paths, reports)
        ]
        print(json.dumps({"files": files, "results": rows}, indent=1))
        return
    for number, (path, report) in enumerate(zip(paths, reports), 1):
        print(f"{number}: {printable(path)}: {_describe(report)}")
    print(_table(rows))
    print("speed: times as fast as the first row of the same model, threads and batch size")
    for warning in _warnings(reports, rows):
        print(warning)


def _describe(report: Mapping[str, Any]) -> str:
    states = (format_thermal(report.get(name) or {}) for name in ("before", "after"))
    parts = [format_machine(report["machine"])]
    parts += [f"{name} {state}" for name, state in zip(("before", "after"), states) if state]
    return "; ".join(map(printable, parts))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    measured = any(row["top1"] is not None for row in rows)
    cells = [
        [
            *(row[name] for name in ("model", "threads", "batch_size", "file", "engine")),
            f"{row['p50_ms']:.2f}",
            f"{row['speedup']:.2f}x",
            *(_accuracy_cells(row) if measured else ()),
        ]
        for row in rows
    ]
    return table(cells, [*_HEADERS, *(_ACCURACY_HEADERS if measured else ())])


def _accuracy_cells(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["top1"] is None:
        return "", ""
    low, high = row["top1_interval"]
    return f"{100 * row['top1']:.2f}", f"{100 * low:.2f} to {100 * high:.2f}"


def _warnings(reports: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    warnings = []
    machines = [report["machine"] for report in reports]
    if len({format_machine(machine) for machine in machines}) > 1:
        warnings.append("Different machines: what differs is not the model alone.")
    if any(machine.get("emulated") for machine in machines):
        warnings.append(EMULATED)
    digests: dict[str, set[str]] = {}
    for row in rows:
        digests.setdefault(row["model"], set()).update({row["sha256"]} - {None})
    if differing := [model for model, found in digests.items() if len(found) > 1]:
        warnings.append(f"Different models under one name: {first_few(differing)}.")
    if len({row["data_sha256"] for row in rows} - {None}) > 1:
        warnings.append("The accuracies are of different images.")
    return warnings
