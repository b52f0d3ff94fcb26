"""``vitsd-evaluate``: accuracy of a model on labeled images."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from vitsd.backend import load_keras
from vitsd.cli.class_balance import balance_lines
from vitsd.cli.options import add_data_options
from vitsd.data.dataset import ALL
from vitsd_runtime.cli import app
from vitsd_runtime.formats import detect_format
from vitsd_runtime.models.catalog import BUNDLED
from vitsd_runtime.system.text import printable, table


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-evaluate",
        description="Top-1, top-5 and per-class accuracy of a .keras file or an exported model.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f".keras, .tflite or .onnx file, SavedModel or run folder, {BUNDLED}, or owner/name "
        "on the Hugging Face Hub",
    )
    add_data_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> None:
    from vitsd.hub.pretrained import locate_any

    model = locate_any(arguments.model)
    if detect_format(model) == "keras":
        load_keras()
    from vitsd.evaluation.evaluate import evaluate

    report = evaluate(model, arguments.data, arguments.split, arguments.limit)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    columns = ("recall", "precision", "top5")
    rows = [
        [entry["class"], entry["images"], *(_percent(entry[name]) for name in columns)]
        for entry in report["per_class"]
        if entry["images"]
    ]
    print(table(rows, ["class", "images", "top-1 %", "precision %", "top-5 %"]))
    kind = "" if report["split"] == ALL else f"{report['split']} "
    model, data = printable(report["model"]), printable(report["data"])
    print(f"\n{model} on {report['images']} {kind}images of {data}")
    split = "Overall" if report["split"] == ALL else report["split"].capitalize()
    low, high = map(_percent, report["top1_interval"])
    print(f"{split} accuracy: {_percent(report['top1'])}% (95 % interval {low} to {high})")
    if report["classes"] > 5:
        print(f"{split} top 5 accuracy: {_percent(report['top5'])}%")
    for line in balance_lines(report):
        print(line)
    print(
        f"Expected calibration error: {_percent(report['ece'])}% (between probabilities and the "
        "share of right answers)"
    )


def _percent(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.2f}"


if __name__ == "__main__":
    sys.exit(main())
