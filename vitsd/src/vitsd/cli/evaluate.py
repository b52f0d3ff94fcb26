"""``vitsd-evaluate``: accuracy of a model on labelled images."""

from __future__ import annotations

import argparse
import json
import sys

from vitsd.cli import add_data_options, load_keras
from vitsd_runtime.cli import app
from vitsd_runtime.formats import detect_format
from vitsd_runtime.system.text import table


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-evaluate",
        description="Top-1, top-5 and per-class accuracy of a .keras file or an exported model.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=".keras, .tflite or .onnx file, SavedModel or run folder, vit-edge-cifar100, or owner/name on the Hub",
    )
    add_data_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv=None) -> int:
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments) -> int:
    from vitsd.hub.pretrained import locate_any

    model = locate_any(arguments.model)
    if detect_format(model) == "keras":
        load_keras()
    from vitsd.evaluation.evaluate import evaluate

    report = evaluate(model, arguments.data, arguments.split, arguments.limit)
    if arguments.json:
        print(json.dumps(report, indent=1))
        return 0
    rows = [
        [
            entry["class"],
            entry["images"],
            *(_percent(entry[key]) for key in ("recall", "precision", "top5")),
        ]
        for entry in report["per_class"]
        if entry["images"]
    ]
    print(table(rows, ["class", "images", "top-1 %", "precision %", "top-5 %"]))
    low, high = report["top1_interval"]
    print(f"\n{report['model']} on {report['images']} {report['split']} images of {report['data']}")
    split = report["split"].capitalize()
    print(
        f"{split} accuracy: {_percent(report['top1'])}% (95 % interval {_percent(low)} to {_percent(high)})"
    )
    if report["classes"] > 5:
        print(f"{split} top 5 accuracy: {_percent(report['top5'])}%")
    print(
        f"Expected calibration error: {_percent(report['ece'])}% (between probabilities and the share of right answers)"
    )
    return 0


def _percent(fraction) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.2f}"


if __name__ == "__main__":
    sys.exit(main())
