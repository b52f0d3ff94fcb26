"""``vitsd-predict``: classify images."""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Union

import numpy as np

from vitsd_runtime.classifier import Classifier, Prediction
from vitsd_runtime.cli import app, options
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import SUFFIXES
from vitsd_runtime.formats.saved_model import is_saved_model
from vitsd_runtime.images.files import find_images
from vitsd_runtime.images.loading import is_image_file, load_image
from vitsd_runtime.models.catalog import BUNDLED, bundled_model
from vitsd_runtime.types import RESIZE_MODES, ResizeMode, UInt8Array

_RENAMED = {**options.RENAMED, "--fit": "--resize-mode"}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-predict", description="Classify images with an exported model."
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=".tflite or .onnx file, or SavedModel folder (default: "
        f"{BUNDLED}, which comes with the runtime)",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE|DIR", help="image files, or folders of them"
    )
    parser.add_argument(
        "--top-k",
        type=options.positive_int,
        default=5,
        metavar="K",
        help="classes to show (default: 5)",
    )
    parser.add_argument(
        "--batch-size", type=options.positive_int, default=8, metavar="N", help="default: 8"
    )
    parser.add_argument(
        "--tta",
        type=_tta,
        metavar="flip|N",
        help="average over the mirror image, or over N random views",
    )
    parser.add_argument(
        "--resize-mode",
        choices=RESIZE_MODES,
        help="how photos become the input size (default: as trained)",
    )
    parser.add_argument(
        "--num-threads",
        type=options.positive_int,
        metavar="N",
        help="engine threads (default: measured)",
    )
    options.add_model_options(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object per image and line")
    output.add_argument(
        "--csv", action="store_true", help="CSV: image, rank, label, index, probability, error"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-runtime", renamed=_RENAMED)


def _main(arguments: argparse.Namespace) -> int:
    model, names = _model_and_images(arguments.model, arguments.images)
    paths: list[Path] = []
    for name in names:
        paths.extend(find_images(name).files if Path(name).is_dir() else [Path(name)])
    classifier = Classifier.load(
        model,
        num_threads=arguments.num_threads,
        batch_size=arguments.batch_size,
        spec=options.read_spec_option(arguments.spec),
        verify=arguments.verify,
    )
    show = _show_json if arguments.json else _Csv() if arguments.csv else _show_text
    failed = 0
    for path, answer in _answers(classifier, paths, arguments):
        if isinstance(answer, str):
            failed += 1
            print(f"vitsd-predict: error: {answer}", file=sys.stderr)
        show(path, answer)
    if failed:
        print(f"vitsd-predict: {failed} of {len(paths)} images failed", file=sys.stderr)
    return 1 if failed else 0


Answer = Union[list[Prediction], str]
"""The best classes, or why the image can't be classified."""


@dataclass
class _Batch:
    """Images read together; where one can't be read, the reason."""

    paths: list[Path] = field(default_factory=list)
    pixels: list[UInt8Array] = field(default_factory=list)
    errors: dict[Path, str] = field(default_factory=dict)


def _answers(
    classifier: Classifier, paths: Sequence[Path], arguments: argparse.Namespace
) -> Iterator[tuple[Path, Answer]]:
    """Every path with its answer, in order."""
    for batch in _read(classifier, paths, arguments.resize_mode):
        answers = iter(())  # type: Iterator[list[Prediction]]
        if batch.pixels:
            pixels = np.stack(batch.pixels)
            answers = iter(classifier.predict(pixels, arguments.top_k, tta=arguments.tta))
        for path in batch.paths:
            yield path, batch.errors[path] if path in batch.errors else next(answers)


def _read(
    classifier: Classifier, paths: Sequence[Path], resize_mode: ResizeMode | None
) -> Iterator[_Batch]:
    spec = classifier.spec
    mode = resize_mode or spec.resize_mode
    remaining = iter(paths)
    while chunk := list(itertools.islice(remaining, classifier.batch_size)):
        batch = _Batch(chunk)
        for path in chunk:
            try:
                batch.pixels.append(load_image(path, spec.input_size, mode))
            except VitsdError as error:
                # A single missing image is a usage error.
                if isinstance(error, UsageError) and len(paths) == 1:
                    raise
                batch.errors[path] = str(error)
        yield batch


def _model_and_images(model: str | None, images: list[str]) -> tuple[Path, list[str]]:
    """Tell MODEL IMAGE... from IMAGE...: argparse takes the first of several words for MODEL."""
    if model is None and not _is_image(images[0]):
        raise UsageError(f"{images[0]} is not an image; use vitsd-predict [MODEL] IMAGE ...")
    if model is not None and not _is_image(model):
        return Path(model), images
    print(
        f"Model: {BUNDLED}, which comes with the runtime and knows the 100 classes of CIFAR-100",
        file=sys.stderr,
    )
    return bundled_model(), images if model is None else [model, *images]


def _is_image(name: str) -> bool:
    """Whether a word means images: an image file, or a folder that is no SavedModel."""
    path = Path(name)
    if not path.is_dir():
        return is_image_file(path)
    inside = [file.name for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES]
    if inside:
        raise UsageError(
            f"{path} holds models, such as {inside[0]}: name the exported model itself."
        )
    return not is_saved_model(path)


class _Show(Protocol):
    def __call__(self, path: Path, answer: Answer) -> None: ...


def _show_text(path: Path, answer: Answer) -> None:
    if not isinstance(answer, str):
        print(f"{path}: " + ", ".join(f"{p.label} {100 * p.probability:.1f} %" for p in answer))


def _show_json(path: Path, answer: Answer) -> None:
    content: dict[str, Any] = (
        {"error": answer}
        if isinstance(answer, str)
        else {"predictions": [vars(prediction) for prediction in answer]}
    )
    print(json.dumps({"image": str(path), **content}))


class _Csv:
    def __init__(self) -> None:
        self._writer = csv.writer(sys.stdout)
        self._writer.writerow(["image", "rank", "label", "index", "probability", "error"])

    def __call__(self, path: Path, answer: Answer) -> None:
        if isinstance(answer, str):
            self._writer.writerow([path, "", "", "", "", answer])
            return
        for rank, p in enumerate(answer, 1):
            self._writer.writerow([path, rank, p.label, p.index, f"{p.probability:.6f}", ""])


def _tta(text: str) -> str | int:
    try:
        return text if text == "flip" else options.positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"must be flip or a whole number from 1; got {text!r}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
