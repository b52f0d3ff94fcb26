"""``vitsd-bench``: what a model costs on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitsd_runtime.benchmark import SETTING, compare, measure, read_results
from vitsd_runtime.classifier import BATCH_SIZE, NUM_THREADS
from vitsd_runtime.cli import app, options
from vitsd_runtime.errors import UsageError
from vitsd_runtime.models.catalog import BUNDLED, bundled_model
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.system.files import check_writable, write_text
from vitsd_runtime.system.machine import (
    describe_machine,
    format_machine,
    format_thermal,
    peak_rss_mb,
    thermal_state,
)
from vitsd_runtime.system.text import printable, table
from vitsd_runtime.validation import Option

_SECONDS = Option("of measuring", float, above=0, at_most=86_400)
_EMULATED = "The CPU is emulated: these times say nothing about a real one."


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-bench",
        description="Measure latency and throughput of exported models on this machine. Several "
        "models are measured interleaved, so that their ratios hold on a noisy machine.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=".tflite or .onnx files, or SavedModel folders (default: "
        f"{BUNDLED}, which comes with the runtime)",
    )
    parser.add_argument(
        "--num-threads",
        type=options.list_of(NUM_THREADS),
        metavar="N,N",
        help="default: 1 and the usable cores",
    )
    parser.add_argument(
        "--batch-sizes",
        type=options.list_of(BATCH_SIZE),
        default=[1, 8],
        metavar="N,N",
        help="default: 1,8",
    )
    parser.add_argument(
        "--seconds",
        type=options.type_of(_SECONDS),
        default=2.0,
        help="per model and setting (default: 2)",
    )
    options.add_model_options(parser)
    parser.add_argument(
        "--save", metavar="A.json", help="also write the results to a file, for --compare"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A.json", "B.json"),
        help="compare two saved results; measures nothing",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(
        _main, build_parser(), argv, distribution="vitsd-runtime", renamed=options.RENAMED
    )


def _main(arguments: argparse.Namespace) -> None:
    if arguments.compare:
        if arguments.models or arguments.save:
            raise UsageError(
                "--compare reads two saved results; measure with MODEL and --save first."
            )
        first, second = arguments.compare
        _compare(first, second, as_json=arguments.json)
        return
    if arguments.save:
        check_writable(arguments.save)
    report = _measure(arguments)
    if arguments.save:
        write_text(arguments.save, json.dumps(report, indent=1))
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    models = arguments.models or [bundled_model()]
    spec = options.read_spec_option(arguments.spec)
    show_progress = not arguments.json and sys.stderr.isatty()
    before = thermal_state()
    results: list[dict[str, Any]] = []
    for threads in arguments.num_threads or sorted({1, usable_cores()}):
        for batch_size in arguments.batch_sizes:
            if show_progress:
                text = f"\r{threads} threads, batch {batch_size} ..."
                print(text, end="", file=sys.stderr, flush=True)
            results += measure(
                models,
                threads,
                batch_size,
                arguments.seconds,
                verify=arguments.verify,
                allow_any_operation=arguments.allow_any_operation,
                spec=spec,
            )
    if show_progress:
        print(end="\r", file=sys.stderr, flush=True)  # the table is written over it
    return {
        "machine": describe_machine(),
        "before": before,
        "after": thermal_state(),
        "peak_rss_mb": peak_rss_mb(),
        "results": results,
    }


def _print(report: dict[str, Any]) -> None:
    times = ("p50_ms", "p90_ms", "p99_ms", "preprocessing_ms")
    rows = [
        [
            row["model"],
            row["engine"],
            row["threads"],
            row["batch_size"],
            *(f"{row[name]:.2f}" for name in times),
            f"{row['images_per_second']:.1f}",
            f"{row['load_ms']:.0f}",
        ]
        for row in report["results"]
    ]
    headers = ["model", "engine", "threads", "batch"]
    headers += ["p50 ms", "p90 ms", "p99 ms", "prep. ms", "images/s", "load ms"]
    print(format_machine(report["machine"]))
    print(table(rows, headers))
    print(
        "ms are for the images of a batch, of the engine alone; preprocessing is apart; images/s "
        "counts both."
    )
    if report["machine"].get("emulated"):
        print(_EMULATED)
    if report["peak_rss_mb"]:
        print(f"Peak memory of this process (all models): {report['peak_rss_mb']:.0f} MB")
    if report["before"]:
        before, after = (format_thermal(report[name]) for name in ("before", "after"))
        print(f"Before: {before}. After: {after}.")


def _compare(first: Path, second: Path, as_json: bool) -> None:
    reports = (read_results(first), read_results(second))
    rows = compare(*reports)
    if not rows:
        raise UsageError(
            f"{printable(first)} and {printable(second)} have no model, threads and batch size in "
            "common."
        )
    if as_json:
        machines = [report["machine"] for report in reports]
        print(json.dumps({"machines": machines, "results": rows}, indent=1))
        return
    descriptions = [printable(format_machine(report["machine"])) for report in reports]
    for letter, path, description in zip("AB", (first, second), descriptions):
        print(f"{letter}: {printable(path)}: {description}")
    if descriptions[0] != descriptions[1]:
        print("Different machines: what differs is not the model alone.")
    if any(report["machine"].get("emulated") for report in reports):
        print(_EMULATED)
    print(_comparison_table(rows))
    if left_out := len(_settings(reports[0]) ^ _settings(reports[1])):
        print(f"{left_out} settings stand in one of the two files only.")


def _settings(report: dict[str, Any]) -> set[tuple[Any, ...]]:
    return {tuple(row[name] for name in SETTING) for row in report["results"]}


def _comparison_table(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        engines = list(dict.fromkeys((row["a_engine"], row["b_engine"])))
        medians = (f"{row[name]:.2f}" for name in ("a_p50_ms", "b_p50_ms"))
        setting = (row["threads"], row["batch_size"])
        cells.append(
            [row["model"], ", ".join(engines), *setting, *medians, f"{row['speedup']:.2f}x"]
        )
    headers = ["model", "engine", "threads", "batch", "A p50 ms", "B p50 ms", "B is faster by"]
    return table(cells, headers)


if __name__ == "__main__":
    sys.exit(main())
