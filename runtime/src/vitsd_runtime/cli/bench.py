"""``vitsd-bench``: what a model costs on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vitsd_runtime
from vitsd_runtime.accuracy import (
    Accuracy,
    LabeledFile,
    digest_labeled,
    find_labeled,
    format_accuracy,
    measure_accuracy,
)
from vitsd_runtime.benchmark import MACHINE_MAY_TELL, STATE_MAY_TELL, measure
from vitsd_runtime.classifier import BATCH_SIZE, NUM_THREADS, Classifier
from vitsd_runtime.cli import app, options
from vitsd_runtime.cli.comparison import EMULATED, print_comparison
from vitsd_runtime.cli.output import now
from vitsd_runtime.cli.progress import with_progress
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats.spec_io import digest_model, require_spec
from vitsd_runtime.models.catalog import BUNDLED, bundled_model, find_model
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.system.files import check_writable, write_text
from vitsd_runtime.system.machine import (
    describe_machine,
    format_machine,
    format_thermal,
    peak_rss_mb,
    thermal_state,
)
from vitsd_runtime.system.text import distinct_names, printable, table
from vitsd_runtime.validation import Option

_SECONDS = Option("of measuring", float, above=0, at_most=86_400)


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
        help=f".tflite or .onnx files, SavedModel folders, or {options.NAMES} (default: {BUNDLED})",
    )
    parser.add_argument(
        "--num-threads",
        type=options.list_of(NUM_THREADS),
        metavar="N,N",
        help="default: 1 and the usable cores",
    )
    options.add_backend_option(parser)
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
    parser.add_argument(
        "--accuracy",
        metavar="DATA",
        help="also measure accuracy, with its 95 %% interval, on labeled images: a folder of class "
        "folders",
    )
    options.add_model_options(parser)
    parser.add_argument(
        "--save", metavar="A.json", help="also write the results to a file, for --compare"
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        metavar="A.json",
        help="lay saved results side by side; measures nothing",
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
        plain = vars(build_parser().parse_args([]))
        plain.update(compare=arguments.compare, json=arguments.json)
        if any(getattr(arguments, name) != value for name, value in plain.items()):
            raise UsageError(
                "--compare reads saved results, and takes no option but --json: measure with MODEL "
                "and --save first."
            )
        print_comparison(arguments.compare, as_json=arguments.json)
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
    models = [find_model(model) for model in arguments.models or [bundled_model()]]
    num_threads = arguments.num_threads or sorted({1, usable_cores()})
    loading = {
        "verify": arguments.verify,
        "backend": arguments.backend,
        "allow_any_operation": arguments.allow_any_operation,
        "spec": options.read_spec_option(arguments.spec),
    }
    # First, so that a wrong folder ends the command before anything is measured.
    labeled = [_find_labeled(arguments.accuracy, model, loading) for model in models]
    before = thermal_state()
    results = _latencies(arguments, models, num_threads, loading)
    report = {
        "vitsd_runtime": vitsd_runtime.__version__,
        "time": now(),
        "machine": {**dict.fromkeys(MACHINE_MAY_TELL), **describe_machine()},
        "before": {**dict.fromkeys(STATE_MAY_TELL), **before},
        "after": {**dict.fromkeys(STATE_MAY_TELL), **thermal_state()},
        "peak_rss_mb": peak_rss_mb(),
        "results": results,
    }
    loading["num_threads"] = max(num_threads)
    report["models"] = [
        {"model": name, "sha256": digest_model(model), **_accuracy(model, files, loading)}
        for name, model, files in zip(distinct_names(models), models, labeled)
    ]
    return report


def _find_labeled(
    folder: str | None, model: Path, loading: Mapping[str, Any]
) -> list[LabeledFile] | None:
    if folder is None:
        return None
    spec = loading["spec"] or require_spec(model, loading["verify"])
    return find_labeled(folder, spec.class_names)


def _latencies(
    arguments: argparse.Namespace,
    models: Sequence[Path],
    num_threads: Sequence[int],
    loading: Mapping[str, Any],
) -> list[dict[str, Any]]:
    show_progress = not arguments.json and sys.stderr.isatty()
    results: list[dict[str, Any]] = []
    for threads in num_threads:
        for batch_size in arguments.batch_sizes:
            if show_progress:
                text = f"\r{threads} threads, batch {batch_size} ..."
                print(text, end="", file=sys.stderr, flush=True)
            results += measure(models, threads, batch_size, arguments.seconds, **loading)
    if show_progress:
        print(end="\r", file=sys.stderr, flush=True)  # the table is written over it
    return results


def _accuracy(
    model: Path, files: Sequence[LabeledFile] | None, loading: Mapping[str, Any]
) -> dict[str, Any]:
    if files is None:
        return {"accuracy": None, "data_sha256": None}
    classifier = Classifier.load(model, **loading)
    return {
        "accuracy": dataclasses.asdict(measure_accuracy(classifier, with_progress(files))),
        "data_sha256": digest_labeled(files, classifier.spec.class_names),
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
        print(EMULATED)
    if report["peak_rss_mb"]:
        print(f"Peak memory of this process (all models): {report['peak_rss_mb']:.0f} MB")
    before, after = (format_thermal(report[name]) for name in ("before", "after"))
    if before:
        print(f"Before: {before}. After: {after}.")
    for about in report["models"]:
        if accuracy := about["accuracy"]:
            print(f"{printable(about['model'])}: {format_accuracy(Accuracy(**accuracy))}")


if __name__ == "__main__":
    sys.exit(main())
