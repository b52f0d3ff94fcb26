"""``vitsd-evaluate``: accuracy of a model on labeled images."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitsd.backend import load_keras
from vitsd.cli.class_balance import balance_lines
from vitsd.cli.options import add_data_options, check_picture
from vitsd.data.dataset import ALL
from vitsd_runtime.cli import app
from vitsd_runtime.formats import detect_format
from vitsd_runtime.models.catalog import MODELS
from vitsd_runtime.system.text import printable, table


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-evaluate",
        description="Accuracy of a .keras file or an exported model, overall and by class, and how "
        "far its probabilities can be trusted.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f".keras, .tflite or .onnx file, SavedModel or run folder, {', '.join(MODELS)}, or "
        "owner/name on the Hugging Face Hub",
    )
    add_data_options(parser)
    parser.add_argument(
        "--strangers",
        action="append",
        default=[],
        metavar="SOURCE",
        help="images of other things, in a folder or as for --data: how many does the model take "
        "for something it knows? Several times for several sources",
    )
    parser.add_argument(
        "--reliability",
        metavar="FILE.png",
        help="draw the share of right answers over the probabilities that the model gave",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> None:
    from vitsd.hub.pretrained import locate_any

    if arguments.reliability:
        check_picture(arguments.reliability)
    model = locate_any(arguments.model)
    if detect_format(model) == "keras":
        load_keras()
    from vitsd.evaluation.evaluate import evaluate

    report = evaluate(model, arguments.data, arguments.split, arguments.limit, arguments.strangers)
    if arguments.reliability:
        from vitsd.plots import plot_reliability

        plot_reliability({Path(model).name: report}, arguments.reliability)
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
    for line in _confidence_lines(report):
        print(line)


def _confidence_lines(report: dict[str, Any]) -> Iterator[str]:
    """How far the probabilities can be trusted, and what the model knows."""
    confidence, error = report["confidence"], _percent(report["ece"])
    described = "between probabilities and the share of right answers"
    if confidence is not None:
        described += f"; {_percent(report['ece_without_temperature'])}% without the temperature"
    yield f"Expected calibration error: {error}% ({described})"
    rows = [
        [f"{row['min_confidence']:.4f}", _percent(row["known"]), _percent(row["top1"])]
        for row in report["by_coverage"]
    ]
    yield "\n" + table(rows, ["min. confidence", "images known %", "right of those %"]) + "\n"
    if confidence is None:
        yield "The model has no threshold, so it never says that it does not know."
    else:
        known, top1 = _percent(report["known"]), _percent(report["known_top1"])
        threshold = f"its threshold of {confidence['threshold']:.4f}"
        yield f"Known at {threshold}: {known}% of the images; right of those: {top1}%"
    if report["strangers"]:
        headers = ["strangers", "images", "taken for known %", "AUROC", "FPR at 95 % coverage %"]
        cells = [
            [
                row["data"],
                row["images"],
                _percent(row["known"]),
                f"{row['auroc']:.3f}",
                _percent(row["fpr_at_95_coverage"]),
            ]
            for row in report["strangers"]
        ]
        yield "\n" + table(cells, headers)


def _percent(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.2f}"


if __name__ == "__main__":
    sys.exit(main())
