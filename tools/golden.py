"""Give an exported file golden images, without exporting it again: only its spec changes.

    python tools/golden.py MODEL.keras ARTIFACT --data SOURCE

For files of earlier versions whose weights are to stay what they are, byte by byte.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vitsd.backend import load_keras
from vitsd.evaluation.evaluate import load_matching
from vitsd.evaluation.predict import model_logits
from vitsd.hub.saving import load_model
from vitsd_export.data import ParityData
from vitsd_export.golden import GoldenImages
from vitsd_runtime import Classifier
from vitsd_runtime.cli import app
from vitsd_runtime.formats import require_spec, write_spec
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.verification import verify


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(
        description="Give an exported file golden images, without exporting it again."
    )
    parser.add_argument("model", type=Path, help="the .keras file that it was exported from")
    parser.add_argument("artifact", type=Path, help="the .tflite or .onnx file")
    parser.add_argument(
        "--data", required=True, metavar="SOURCE", help="test images to choose from"
    )
    return app.run(_main, parser, argv, distribution="vitsd-export")


def _main(arguments: argparse.Namespace) -> None:
    load_keras()
    keras_model, trained_spec = load_model(arguments.model)
    spec = require_spec(arguments.artifact)
    test = ParityData.load(keras_model, trained_spec, load_matching(arguments.data, trained_spec))
    golden = GoldenImages.choose(keras_model, trained_spec, test)
    logits = model_logits(arguments.artifact, golden.pixels)
    with atomic_write(arguments.artifact) as temporary:
        shutil.copyfile(arguments.artifact, temporary)
        write_spec(temporary, spec.replace(golden=golden.record(spec, logits)))
    for stage in verify(Classifier.load(arguments.artifact)).stages:
        print(f"{stage.name}: {stage.detail}")


if __name__ == "__main__":
    sys.exit(main())
