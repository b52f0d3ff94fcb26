"""``vitsd-export``: turn a trained model into SavedModel, TFLite and ONNX."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vitsd.cli import load_keras
from vitsd_export.cli import print_comparisons
from vitsd_export.deploy import DevicePlatform, check_folder, deploy
from vitsd_export.exporter import (
    ALIASES,
    CALIBRATION_IMAGES,
    DEFAULT_OPSET,
    QUANTIZATIONS,
    Artifact,
    ParityError,
    companions,
    export,
    newest_model,
)
from vitsd_export.formats.tflite_targets import TARGETS
from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.text import table


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-export",
        description="Export a trained model. Every file is checked against the Keras model on held-out images before it "
        "is kept; a SavedModel folder, .tflite and .onnx give float32 logits for the same input.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=".keras file, run folder, vit-edge-cifar100, or owner/name on the Hugging Face Hub (default: the newest run "
        "under runs/)",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        default=["tflite"],
        metavar="F",
        help=f"{', '.join([*QUANTIZATIONS, 'all'])} (default: tflite; also {', '.join(ALIASES)})",
    )
    parser.add_argument(
        "--quantize",
        nargs="+",
        default=["none"],
        metavar="Q",
        help="none, float16, dynamic, int8, int8-full, int4 for TFLite; none, dynamic, int8 for ONNX (default: none). "
        "Raspberry Pi and other CPUs: int8",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="folder for the files (default: the model's, or this one)"
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="images for calibration and checking (default: what the model was trained on)",
    )
    parser.add_argument(
        "--embed-preprocessing",
        action="store_true",
        help="the graph takes uint8 images and normalises and resizes them",
    )
    parser.add_argument(
        "--io",
        choices=("float32", "int8"),
        default="float32",
        help="input and output of int8 TFLite (default: float32)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=DEFAULT_OPSET,
        metavar="N",
        help="of ONNX, 13 to 18 (default: 17)",
    )
    parser.add_argument(
        "--target",
        default="litert",
        metavar="T",
        help=f"runtime of .tflite files: {', '.join(TARGETS)} (default: litert)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="top-1 accuracy that quantisation may cost on validation images; layers that cost more stay more exact "
        "(default: 0.5)",
    )
    parser.add_argument(
        "--recipe",
        metavar="FILE",
        help="replay the .recipe.json of an earlier export, without a search",
    )
    parser.add_argument(
        "--calibration-images",
        type=int,
        default=CALIBRATION_IMAGES,
        metavar="N",
        help=f"training images that give the ranges of activations (default: {CALIBRATION_IMAGES})",
    )
    parser.add_argument(
        "--deploy",
        metavar="DIR",
        help="also make a folder to copy to a device: the file, the runtime, install.sh, run.sh",
    )
    parser.add_argument(
        "--wheels",
        action="append",
        metavar="PLATFORM,PYTHON",
        help="download for --deploy what a device needs, so that it installs without network; several times for several "
        "devices. Raspberry Pi OS, 64-bit: aarch64,3.11 (bookworm), aarch64,3.13 (trixie)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument(
        "--keep-failing",
        action="store_true",
        help="keep files that fail the parity gate; exit code 1",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv=None) -> int:
    return app.run(_main, build_parser(), argv, distribution="vitsd-export")


def _main(arguments) -> int:
    wheels = [DevicePlatform.parse(text) for text in arguments.wheels or ()]
    if arguments.deploy:
        if (
            len({*arguments.format}) > 1
            or "all" in arguments.format
            or len({*arguments.quantize}) > 1
        ):
            raise UsageError("--deploy takes one file: give one --format and one --quantize.")
        check_folder(Path(arguments.deploy), arguments.overwrite)
        if (
            arguments.output
            and Path(arguments.output).resolve() == Path(arguments.deploy).resolve()
        ):
            raise UsageError(
                "--output and --deploy are two folders: the deployment gets a copy of the file."
            )
    elif wheels:
        raise UsageError("--wheels are for a deployment: say where with --deploy DIR.")
    load_keras()

    def report(message):
        if not arguments.json:
            print(message, flush=True)

    model = arguments.model
    if model is None:
        model = newest_model()
        report(f"Exporting the newest run: {model}")
    failure = None
    try:
        artifacts = export(
            model,
            arguments.format,
            arguments.quantize,
            arguments.output,
            arguments.data,
            embed_preprocessing=arguments.embed_preprocessing,
            io=arguments.io,
            opset=arguments.opset,
            target=arguments.target,
            max_drop=arguments.max_drop,
            recipe=arguments.recipe,
            calibration_images=arguments.calibration_images,
            overwrite=arguments.overwrite,
            keep_failing=arguments.keep_failing,
            report=report,
        )
        comparisons = [artifact.comparison for artifact in artifacts]
    except ParityError as error:
        failure, comparisons = error, error.comparisons
        artifacts = error.artifacts
    deployed = None
    if arguments.deploy and not failure:
        deployed = deploy(
            artifacts[0].path, arguments.deploy, wheels, overwrite=arguments.overwrite
        )
    found = {str(a.path): a.found for a in artifacts if a.found}
    if arguments.json:
        rows = [
            {
                **c.to_dict(),
                **({"quantization_search": found[c.path].measured()} if c.path in found else {}),
            }
            for c in comparisons
        ]
        folder = {"deployed": str(deployed)} if deployed else {}
        print(json.dumps({"model": str(model), "artifacts": rows, **folder}, indent=1))
    else:
        for artifact in artifacts:
            if artifact.found and artifact.found.divergence:
                _print_choices(artifact)
        print_comparisons(comparisons)
        print(
            f"Compared with {model} on {comparisons[0].images} test images. Files: {Path(comparisons[0].path).parent}/"
        )
        if deployed:
            print(f"Copy {deployed}/ to the device; there: ./install.sh, then ./run.sh IMAGE")
    if failure:
        raise failure
    return 0 if all(comparison.passed for comparison in comparisons) else 1


def _print_choices(artifact: Artifact) -> None:
    from vitsd_export.quantization.search import CHOICE_HEADERS, describe_choices

    recipe, picture = companions(artifact.path)
    print(
        f"\n{artifact.path.name}, layer by layer (again with --recipe {recipe}; picture: {picture}):"
    )
    print(table(describe_choices(artifact.found), CHOICE_HEADERS) + "\n")


if __name__ == "__main__":
    sys.exit(main())
