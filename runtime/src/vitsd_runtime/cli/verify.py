"""``vitsd-verify``: does this machine give the answers that the exporting one gave?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vitsd_runtime.accuracy import Accuracy, find_labeled, format_accuracy, measure_accuracy
from vitsd_runtime.classifier import Classifier
from vitsd_runtime.cli import app, options
from vitsd_runtime.cli.progress import with_progress
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import printable, table
from vitsd_runtime.verification import Verification, verify


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-verify",
        description="Check that a model gives the same answers on this machine as on the one that "
        "exported it: with the\nimages in the file, stage by stage. Exit code 1 if it does not.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_model_argument(parser, ".tflite or .onnx file, or SavedModel folder")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="also measure accuracy and speed on labeled images: a folder of class folders",
    )
    options.add_num_threads_option(parser)
    options.add_backend_option(parser)
    options.add_check_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-runtime")


def _main(arguments: argparse.Namespace) -> None:
    classifier = Classifier.load(
        arguments.model,
        num_threads=arguments.num_threads,
        backend=arguments.backend,
        verify=arguments.verify,
        allow_any_operation=arguments.allow_any_operation,
    )
    files = None
    if arguments.data is not None:
        files = find_labeled(arguments.data, classifier.spec.class_names)
    found = verify(classifier)
    if not arguments.json:
        print(f"{printable(arguments.model)} on {classifier.engine.name}")
        _print_stages(found)
    accuracy = measure_accuracy(classifier, with_progress(files)) if files else None
    if arguments.json:
        print(json.dumps(_report(arguments.model, classifier, found, accuracy), indent=1))
    elif accuracy:
        print(format_accuracy(accuracy))
    if not found.passed:
        raise VitsdError(
            f"{printable(arguments.model)} does not give the exporting machine's answers here: the "
            f"stage {found.failed} fails."
        )


def _report(
    model: Path, classifier: Classifier, found: Verification, accuracy: Accuracy | None
) -> dict[str, object]:
    return {
        "model": str(model),
        "engine": classifier.engine.name,
        "passed": found.passed,
        "failed": found.failed,
        "stages": [dataclasses.asdict(stage) for stage in found.stages],
        "accuracy": accuracy and dataclasses.asdict(accuracy),
    }


def _print_stages(found: Verification) -> None:
    rows = [(s.name, "same" if s.passed else "DIFFERENT", s.detail) for s in found.stages]
    print(table(rows, ("stage", "here", "compared with the exporting machine")))


if __name__ == "__main__":
    sys.exit(main())
