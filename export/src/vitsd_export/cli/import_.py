"""``vitsd-import``: make a ``.keras`` file from a Keras 2 SavedModel of the public example."""

from __future__ import annotations

import argparse
import json
import sys

from vitsd.backend import load_keras
from vitsd.data.sources import BUILT_IN
from vitsd_runtime.cli import app


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-import",
        description="Import a Keras 2 SavedModel of the public example (as keras-io/vit-small-ds). The imported model is "
        "kept only if its logits equal those of the SavedModel.",
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
        help="what it was trained on, for class names, statistics and comparison: "
        f"{', '.join(BUILT_IN)}, a folder, or an .npz file",
    )
    parser.add_argument(
        "--mean", type=_numbers, metavar="X,X,X", help="per channel, in 0-255 pixel units"
    )
    parser.add_argument("--variance", type=_numbers, metavar="X,X,X", help="per channel")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv=None) -> int:
    return app.run(_main, build_parser(), argv, distribution="vitsd-export")


def _main(arguments) -> int:
    load_keras()
    from vitsd_export.keras2.importer import import_saved_model

    spec, found = import_saved_model(
        arguments.saved_model,
        arguments.output,
        data=arguments.data,
        mean=arguments.mean,
        variance=arguments.variance,
        overwrite=arguments.overwrite,
        report=(lambda message: None) if arguments.json else print,
    )
    if arguments.json:
        print(
            json.dumps(
                {"model": arguments.output, "architecture": spec.architecture.to_dict(), **found},
                indent=1,
            )
        )
        return 0
    images = "images of its data" if found["real_images"] else "random images"
    print(
        f"{arguments.output}: {found['variables']} variables, each used once ({found['training_state']} of the optimizer "
        f"and the like left out); logits differ by at most {found['max_difference']:.1e} on {found['images']} {images}."
    )
    return 0


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be numbers like 129.3,124.1,112.4; got {text!r}"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
