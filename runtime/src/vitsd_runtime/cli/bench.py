"""``vitsd-bench``: what a model costs on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from vitsd_runtime.cli import common as console
from vitsd_runtime.errors import UsageError
from vitsd_runtime.models.catalog import BUNDLED, bundled_model
from vitsd_runtime.system.files import check_file, write_text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-bench",
        description="Measure latency and throughput of exported models on this machine. Several models are measured "
        "interleaved, so that their ratios hold on a noisy machine.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f".tflite or .onnx files, or SavedModel folders (default: {BUNDLED}, which comes with the runtime)",
    )
    parser.add_argument(
        "--threads",
        type=console.positive_ints,
        metavar="N,N",
        help="default: 1 and the physical cores",
    )
    parser.add_argument(
        "--batch-sizes",
        type=console.positive_ints,
        default=[1, 8],
        metavar="N,N",
        help="default: 1,8",
    )
    parser.add_argument(
        "--seconds",
        type=console.positive_float,
        default=2.0,
        help="per model and setting (default: 2)",
    )
    parser.add_argument("--spec", metavar="FILE", help="JSON spec for models that carry none")
    parser.add_argument("--no-verify", action="store_true", help="do not check the models' SHA-256")
    parser.add_argument(
        "--save", metavar="A.json", help="also write the results to a file, for --compare"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A.json", "B.json"),
        help="compare two saved results; measures nothing",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv=None) -> int:
    return console.run(_main, build_parser(), argv)


def _main(arguments) -> int:
    if arguments.compare:
        if arguments.models or arguments.save:
            raise UsageError(
                "--compare reads two saved results; measure with MODEL and --save first."
            )
        return _compare(*map(Path, arguments.compare), arguments.json)
    from vitsd_runtime.system.machine import (
        describe_machine,
        peak_rss_mb,
        physical_cores,
        thermal_state,
    )

    if arguments.save:
        check_file(arguments.save)
    models = arguments.models or [str(bundled_model())]
    threads = arguments.threads or sorted({1, physical_cores()})
    spec = console.read_spec_option(arguments.spec)
    results = []
    before = thermal_state()
    for count in threads:
        for batch_size in arguments.batch_sizes:
            if not arguments.json and sys.stderr.isatty():
                print(
                    f"\r{count} threads, batch {batch_size} ...",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
            results += measure(
                models, count, batch_size, arguments.seconds, not arguments.no_verify, spec
            )
    report = {
        "machine": describe_machine(),
        "before": before,
        "after": thermal_state(),
        "peak_rss_mb": peak_rss_mb(),
        "results": results,
    }
    if arguments.save:
        write_text(arguments.save, json.dumps(report, indent=1))
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)
    return 0


def _print(report: dict) -> None:
    from vitsd_runtime.system.machine import format_machine, format_thermal

    print(f"\r{format_machine(report['machine'])}")
    print(
        console.table(
            [
                [
                    r["model"],
                    r["engine"],
                    r["threads"],
                    r["batch_size"],
                    *(
                        f"{r[key]:.2f}"
                        for key in ("p50_ms", "p90_ms", "p99_ms", "preprocessing_ms")
                    ),
                    f"{r['images_per_second']:.1f}",
                    f"{r['load_ms']:.0f}",
                ]
                for r in report["results"]
            ],
            [
                "model",
                "engine",
                "threads",
                "batch",
                "p50 ms",
                "p90 ms",
                "p99 ms",
                "prep. ms",
                "images/s",
                "load ms",
            ],
        )
    )
    print(
        "ms are for the images of a batch, of the engine alone; preprocessing is apart; images/s counts both."
    )
    if report["machine"].get("emulated"):
        print(_EMULATED)
    if report["peak_rss_mb"]:
        print(f"Peak memory of this process (all models): {report['peak_rss_mb']:.0f} MB")
    if report["before"]:
        print(
            f"Before: {format_thermal(report['before'])}. After: {format_thermal(report['after'])}."
        )


def _compare(first: Path, second: Path, as_json: bool) -> int:
    from vitsd_runtime.system.machine import format_machine

    reports = [_read_results(path) for path in (first, second)]
    rows = compare(*reports)
    if not rows:
        raise UsageError(f"{first} and {second} have no model, threads and batch size in common.")
    if as_json:
        print(
            json.dumps(
                {"machines": [report["machine"] for report in reports], "results": rows}, indent=1
            )
        )
        return 0
    machines = [format_machine(report["machine"]) for report in reports]
    for letter, path, machine in zip("AB", (first, second), machines):
        print(f"{letter}: {path}: {machine}")
    if machines[0] != machines[1]:
        print("Different machines: what differs is not the model alone.")
    if any(report["machine"].get("emulated") for report in reports):
        print(_EMULATED)
    print(
        console.table(
            [
                [
                    r["model"],
                    r["a_engine"]
                    if r["a_engine"] == r["b_engine"]
                    else f"{r['a_engine']}, {r['b_engine']}",
                    r["threads"],
                    r["batch_size"],
                    *(f"{r[key]:.2f}" for key in ("a_p50_ms", "b_p50_ms")),
                    f"{r['speedup']:.2f}x",
                ]
                for r in rows
            ],
            ["model", "engine", "threads", "batch", "A p50 ms", "B p50 ms", "B is faster by"],
        )
    )
    first_settings, second_settings = (
        {tuple(r[k] for k in _SETTING) for r in report["results"]} for report in reports
    )
    if left_out := first_settings ^ second_settings:
        print(f"{len(left_out)} settings stand in one of the two files only.")
    return 0


_SETTING = ("model", "threads", "batch_size")
_EMULATED = "The CPU is emulated: these times say nothing about a real one."
_MACHINE = {"cpu": str, "cores": int, "physical_cores": int, "system": str, "python": str}
_MAY_BE_KNOWN = {"board": str, "governor": str, "max_mhz": (int, float), "memory_mb": (int, float)}


def compare(first: dict, second: dict) -> list[dict]:
    """Rows for what two saved results have in common: the setting, both engines, both medians in ms, and their ratio."""
    others = {tuple(row[key] for key in _SETTING): row for row in second["results"]}
    rows = []
    for row in first["results"]:
        setting = tuple(row[key] for key in _SETTING)
        if setting in others:
            a, b = row, others[setting]
            engines = {"a_engine": a["engine"], "b_engine": b["engine"]}
            medians = {
                "a_p50_ms": a["p50_ms"],
                "b_p50_ms": b["p50_ms"],
                "speedup": a["p50_ms"] / b["p50_ms"],
            }
            rows.append({**dict(zip(_SETTING, setting)), **engines, **medians})
    return rows


def _read_results(path: Path) -> dict:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        for row in report["results"]:
            if not (
                row["p50_ms"] > 0
                and all(isinstance(row[key], (str, int)) for key in (*_SETTING, "engine"))
            ):
                raise ValueError("a row without its setting or latency")
        machine = report["machine"]
        known = {
            **_MACHINE,
            **{name: kind for name, kind in _MAY_BE_KNOWN.items() if name in machine},
        }
        if not all(isinstance(machine[name], kind) for name, kind in known.items()):
            raise ValueError("a machine that is not described")
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no results of vitsd-bench --save.") from error
    return report


def measure(
    models,
    threads: int,
    batch_size: int,
    seconds: float,
    verify: bool = True,
    spec=None,
    burst: int = 10,
) -> list[dict]:
    """Latencies of several models, run in turns, for one thread count and batch size; a dict per model.

    A model has ``burst`` runs in one turn, because in the first the caches are full of the model before it.
    """
    import numpy as np

    from vitsd_runtime.classifier import Classifier

    runs = []
    for model in models:
        start = time.perf_counter()
        classifier = Classifier.load(
            model, num_threads=threads, batch_size=batch_size, verify=verify, spec=spec
        )
        load_ms = 1e3 * (time.perf_counter() - start)
        pixels = np.random.default_rng(0).integers(
            0, 256, (batch_size, *classifier.spec.input_size), dtype=np.uint8
        )
        for _ in range(3):  # warm up
            classifier.logits(pixels)
        runs.append((model, classifier, pixels, load_ms, [], []))
    deadline = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < deadline or len(runs[0][4]) < 10:
        for _, classifier, pixels, _, preparing, running in runs:
            for _ in range(burst):
                start = time.perf_counter()
                batch = classifier._prepare(pixels)
                middle = time.perf_counter()
                classifier._run(batch)
                running.append(1e3 * (time.perf_counter() - middle))
                preparing.append(1e3 * (middle - start))
    names = console.distinct_names(run[0] for run in runs)
    return [
        {
            "model": name,
            "engine": classifier.engine.name,
            "threads": threads,
            "batch_size": batch_size,
            "p50_ms": float(np.percentile(running, 50)),
            "p90_ms": float(np.percentile(running, 90)),
            "p99_ms": float(np.percentile(running, 99)),
            "preprocessing_ms": float(np.median(preparing)),
            "images_per_second": 1e3
            * batch_size
            / float(np.median(running) + np.median(preparing)),
            "load_ms": load_ms,
            "runs": len(running),
        }
        for name, (_, classifier, _, load_ms, preparing, running) in zip(names, runs)
    ]


if __name__ == "__main__":
    sys.exit(main())
