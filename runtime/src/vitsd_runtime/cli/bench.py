"""``vitsd-bench``: what a model costs on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from vitsd_runtime import console


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-bench",
        description="Measure latency and throughput of exported models on this machine. Several models are measured "
        "interleaved, so that their ratios hold on a noisy machine.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help=".tflite or .onnx files, or SavedModel folders")
    parser.add_argument("--threads", type=console.positive_ints, metavar="N,N", help="thread counts (default: 1 and all)")
    parser.add_argument("--batch-sizes", type=console.positive_ints, default=[1, 8], metavar="N,N", help="default: 1,8")
    parser.add_argument("--seconds", type=float, default=2.0, help="per model and setting (default: 2)")
    parser.add_argument("--spec", metavar="FILE", help="JSON spec for models that carry none")
    parser.add_argument("--no-verify", action="store_true", help="do not check the models' SHA-256")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv=None) -> int:
    return console.run(_main, build_parser(), argv)


def _main(arguments) -> int:
    from vitsd_runtime.hardware import available_cores, describe_machine, peak_rss_mb

    threads = arguments.threads or sorted({1, available_cores()})
    spec = console.read_spec_option(arguments.spec)
    results = []
    for count in threads:
        for batch_size in arguments.batch_sizes:
            if not arguments.json and sys.stderr.isatty():
                print(f"\r{count} threads, batch {batch_size} ...", end="", file=sys.stderr, flush=True)
            results += measure(arguments.models, count, batch_size, arguments.seconds, not arguments.no_verify, spec)
    report = {"machine": describe_machine(), "peak_rss_mb": peak_rss_mb(), "results": results}
    if arguments.json:
        print(json.dumps(report, indent=1))
        return 0
    machine = report["machine"]
    print(f"\r{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}")
    print(
        console.table(
            [
                [
                    r["model"],
                    r["engine"],
                    r["threads"],
                    r["batch_size"],
                    *(f"{r[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms", "preprocessing_ms")),
                    f"{r['images_per_second']:.1f}",
                    f"{r['load_ms']:.0f}",
                ]
                for r in results
            ],
            ["model", "engine", "threads", "batch", "p50 ms", "p90 ms", "p99 ms", "prep. ms", "images/s", "load ms"],
        )
    )
    print("ms are for the images of a batch, of the engine alone; preprocessing is apart; images/s counts both.")
    if report["peak_rss_mb"]:
        print(f"Peak memory of this process (all models): {report['peak_rss_mb']:.0f} MB")
    return 0


def measure(
    models, threads: int, batch_size: int, seconds: float, verify: bool = True, spec=None, burst: int = 1
) -> list[dict]:
    """Latencies of several models, run in turns, for one thread count and batch size; a dict per model.

    With many models, ``burst`` runs of each in one turn keep the others from emptying its caches.
    """
    import numpy as np

    from vitsd_runtime.classifier import Classifier

    runs = []
    for model in models:
        start = time.perf_counter()
        classifier = Classifier.load(model, num_threads=threads, batch_size=batch_size, verify=verify, spec=spec)
        load_ms = 1e3 * (time.perf_counter() - start)
        pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *classifier.spec.input_size), dtype=np.uint8)
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
    return [
        {
            "model": Path(model).name,
            "engine": classifier.engine.name,
            "threads": threads,
            "batch_size": batch_size,
            "p50_ms": float(np.percentile(running, 50)),
            "p90_ms": float(np.percentile(running, 90)),
            "p99_ms": float(np.percentile(running, 99)),
            "preprocessing_ms": float(np.median(preparing)),
            "images_per_second": 1e3 * batch_size / float(np.median(running) + np.median(preparing)),
            "load_ms": load_ms,
            "runs": len(running),
        }
        for model, classifier, _, load_ms, preparing, running in runs
    ]


if __name__ == "__main__":
    sys.exit(main())
