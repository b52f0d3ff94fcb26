"""``vitsd-parity``: do several models give the same answers?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vitsd.backend import load_keras
from vitsd.cli.options import add_data_options
from vitsd.data.dataset import ALL, Split
from vitsd.evaluation.evaluate import load_labeled, trained_on, warn_of_values
from vitsd.evaluation.predict import model_logits
from vitsd.hub.pretrained import locate_any
from vitsd_export.cli import print_comparisons
from vitsd_export.gate import Comparison, compare
from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import require_spec
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.text import printable


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = argparse.ArgumentParser(
        prog="vitsd-parity",
        description="Compare models on labeled images; the first is the reference. Exit code 1 if "
        "one is beyond the tolerance of its quantization.",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help=".keras, .tflite, .onnx files and SavedModel folders",
    )
    add_data_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-export")


def _main(arguments: argparse.Namespace) -> int:
    if len(arguments.models) < 2:
        raise UsageError("Give at least two models: the reference first.")
    models = [locate_any(model) for model in arguments.models]
    specs = [require_spec(model) for model in models]
    _check_same_task(models, specs)
    load_keras()
    name, images = load_labeled(arguments.data, specs[0], arguments.split, arguments.limit)
    warn_of_values(name, images, specs[0])
    overlap = trained_on(images, specs[0], arguments.split)
    known = overlap.images if overlap else None
    comparisons = [
        dataclasses.replace(comparison, trained_on=known)
        for comparison in _compare_all(models, specs, images, name)
    ]
    reference = arguments.models[0]
    if arguments.json:
        rows = [comparison.to_dict() for comparison in comparisons]
        print(json.dumps({"reference": reference, "models": rows}, indent=1))
    else:
        print_comparisons(comparisons)
        kind = "" if arguments.split == ALL else f"{arguments.split} "
        described = f"{len(images)} {kind}images of {printable(arguments.data)}"
        print(f"Reference: {printable(reference)}; {described}")
    return 0 if all(comparison.passed for comparison in comparisons) else 1


def _check_same_task(models: Sequence[Path], specs: Sequence[ModelSpec]) -> None:
    first = specs[0]
    for model, spec in zip(models, specs, strict=True):
        if (spec.class_names, spec.input_size) != (first.class_names, first.input_size):
            raise UsageError(
                f"{printable(model)} has other classes or another input size than "
                f"{printable(models[0])}."
            )


def _compare_all(
    models: Sequence[Path], specs: Sequence[ModelSpec], images: Split, data: str
) -> list[Comparison]:
    pixels = images.images[:]
    reference = model_logits(models[0], pixels)
    logits = [reference, *(model_logits(model, pixels) for model in models[1:])]
    return [
        compare(model, spec, pixels, images.labels, reference, own, data)
        for model, spec, own in zip(models, specs, logits, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
