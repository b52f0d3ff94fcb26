"""Give models that exist a temperature and a threshold; their weights stay as they are.

    python tools/calibrate.py MODEL ... --data SOURCE [--coverage 0.95]

Each file's own logits of the validation images decide, as at the end of training and of an export.
For models that were made before specs held them; SavedModel folders are left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vitsd.backend import load_keras
from vitsd.evaluation.confidence import FEWEST_IMAGES, fit_confidence
from vitsd.evaluation.evaluate import labeled_images, load_matching
from vitsd.evaluation.predict import model_logits
from vitsd.recipe import TrainingRecipe
from vitsd_runtime.cli import app, options
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import require_spec, write_spec
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.system.text import printable
from vitsd_runtime.validation import options as declared_options


def calibrate(path: Path, source: str, coverage: float) -> str:
    """Write a file's confidence into its spec; returns what it is, in words.

    Raises:
        UsageError: there are too few validation images.
    """
    spec = require_spec(path)
    validation = labeled_images(load_matching(source, spec), spec, "val")
    logits = model_logits(path, validation.images)
    confidence = fit_confidence(logits, validation.labels, coverage)
    if confidence is None:
        raise UsageError(f"{source} has fewer than {FEWEST_IMAGES} validation images.")
    with atomic_write(path) as temporary:
        shutil.copyfile(path, temporary)
        write_spec(temporary, spec.replace(confidence=confidence))
    return f"temperature {confidence.temperature:.4f}, threshold {confidence.threshold:.4f}"


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="calibrate", description="Give models that exist a temperature and a threshold."
    )
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="MODEL", help=".keras, .tflite and .onnx files"
    )
    parser.add_argument(
        "--data", required=True, metavar="SOURCE", help="what the models were trained on"
    )
    declared = dict(declared_options(TrainingRecipe))["coverage"]
    parser.add_argument(
        "--coverage",
        type=options.type_of(declared),
        default=TrainingRecipe.coverage,
        metavar="N",
        help=f"{declared.help} (default: {TrainingRecipe.coverage})",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> None:
    load_keras()
    for path in arguments.models:
        if path.is_dir():
            raise UsageError(f"{printable(path)} is a folder: export it again instead.")
        print(f"{printable(path)}: {calibrate(path, arguments.data, arguments.coverage)}")


if __name__ == "__main__":
    sys.exit(main())
