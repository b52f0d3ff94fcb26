"""``vitsd-import``: make a ``.keras`` file from a Keras 2 SavedModel of the public example."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from vitsd.backend import load_keras
from vitsd.data.sources import BUILT_IN
from vitsd_runtime.cli import app
from vitsd_runtime.system.text import printable


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-import",
        description="Import a Keras 2 SavedModel of the public example (such as "
        "keras-io/vit-small-ds). The import is rejected unless the logits match those of the "
        "SavedModel.",
    )
    parser.add_argument(
        "saved_model",
        metavar="SAVED_MODEL_DIR",
        help="a SavedModel is a program: import what you trust",
    )
    parser.add_argument("--output", required=True, metavar="MODEL.keras", help="the file to write")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="the data it was trained on, for class names, statistics and comparison: "
        f"{', '.join(BUILT_IN)}, a folder, or an .npz file",
    )
    parser.add_argument(
        "--mean", type=_numbers, metavar="X,X,X", help="per channel, in 0-255 pixel units"
    )
    parser.add_argument("--variance", type=_numbers, metavar="X,X,X", help="per channel")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-export")


def _main(arguments: argparse.Namespace) -> None:
    load_keras()
    from vitsd_export.keras2 import import_saved_model

    spec, report = import_saved_model(
        arguments.saved_model,
        arguments.output,
        data=arguments.data,
        mean=arguments.mean,
        variance=arguments.variance,
        overwrite=arguments.overwrite,
    )
    if arguments.json:
        architecture = spec.architecture.to_dict() if spec.architecture else {}
        result = {"model": arguments.output, "architecture": architecture}
        print(json.dumps({**result, **dataclasses.asdict(report)}, indent=1))
        return
    images = "images of its data" if report.real_images else "random images"
    print(
        f"{printable(arguments.output)}: {report.variables} variables, each used once "
        f"({report.training_state} of the optimizer and the like left out); logits differ by at "
        f"most {report.max_difference:.1e} on {report.images} {images}."
    )


def _numbers(text: str) -> list[float]:
    """An argparse type: ``1.5,2,3``."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be numbers like 129.3,124.1,112.4; got {text!r}"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
