"""``vitsd-predict``: classify images."""

from __future__ import annotations

import argparse
import collections
import csv
import json
import sys
from pathlib import Path

from vitsd_runtime.cli import common as console
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats.spec_io import is_saved_model
from vitsd_runtime.models.catalog import BUNDLED, bundled_model


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-predict", description="Classify images with an exported model."
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=f".tflite or .onnx file, or SavedModel folder (default: {BUNDLED}, which comes with the runtime)",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE|DIR", help="image files, or folders of them"
    )
    parser.add_argument(
        "--top-k",
        type=console.positive_int,
        default=5,
        metavar="K",
        help="classes to show (default: 5)",
    )
    parser.add_argument(
        "--batch-size", type=console.positive_int, default=8, metavar="N", help="default: 8"
    )
    parser.add_argument(
        "--tta",
        type=_tta,
        metavar="flip|N",
        help="average over the mirror image, or over N random views",
    )
    parser.add_argument(
        "--fit",
        choices=("stretch", "crop"),
        help="how photos become the input size (default: as trained)",
    )
    console.add_model_options(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object per image and line")
    output.add_argument(
        "--csv", action="store_true", help="CSV: image, rank, label, index, probability, error"
    )
    return parser


def main(argv=None) -> int:
    return console.run(_main, build_parser(), argv)


def _main(arguments) -> int:
    from vitsd_runtime.classifier import Classifier
    from vitsd_runtime.images.loading import find_images

    model, names = _model_and_images(arguments.model, arguments.images)
    paths = []
    for name in names:
        paths.extend(find_images(name) if Path(name).is_dir() else [Path(name)])
    classifier = Classifier.load(
        model,
        num_threads=arguments.threads,
        batch_size=arguments.batch_size,
        spec=console.read_spec_option(arguments.spec),
        verify=not arguments.no_verify,
    )
    emit = _json if arguments.json else _Csv() if arguments.csv else _text
    readable = _Readable(paths, classifier.spec, arguments.fit)
    failed = 0

    def emit_failures():  # those whose turn it is
        nonlocal failed
        while readable.waiting and readable.waiting[0][1]:
            path, message = readable.waiting.popleft()
            failed += 1
            print(f"vitsd-predict: error: {message}", file=sys.stderr)
            emit(path, [], message)

    for predictions in classifier.stream(readable, arguments.top_k, tta=arguments.tta):
        emit_failures()
        emit(readable.waiting.popleft()[0], predictions)
    emit_failures()
    if failed:
        print(f"vitsd-predict: {failed} of {len(paths)} images failed", file=sys.stderr)
    return 1 if failed else 0


def _model_and_images(model: str | None, images: list[str]) -> tuple[Path, list[str]]:
    """Tell MODEL IMAGE... from IMAGE...: argparse takes the first of several words for the model."""
    if model is None and not _is_image(images[0]):
        raise UsageError(f"{images[0]} is no image; use vitsd-predict [MODEL] IMAGE ...")
    if model is not None and not _is_image(model):
        return Path(model), images
    print(
        f"Model: {BUNDLED}, which comes with the runtime and knows the 100 classes of CIFAR-100",
        file=sys.stderr,
    )
    return bundled_model(), images if model is None else [model, *images]


def _is_image(name: str) -> bool:
    """Whether a word on the command line means images: an image file, or a folder that is no SavedModel."""
    from vitsd_runtime.images.loading import EXTENSIONS

    path = Path(name)
    if path.is_dir():
        if inside := [
            file.name
            for file in sorted(path.iterdir())
            if file.suffix in (".tflite", ".onnx", ".keras")
        ]:
            raise UsageError(
                f"{path} holds models, such as {inside[0]}: name the exported model itself."
            )
        return not is_saved_model(path)
    return path.suffix.lower() in EXTENSIONS


class _Readable:
    """The images that can be read, one after the other; the others are noted and skipped."""

    def __init__(self, paths, spec, fit):
        self._paths, self._spec, self._fit = paths, spec, fit
        self.waiting: collections.deque[tuple[Path, str]] = collections.deque()
        """Images that are not answered yet, in order, with what is wrong with them (empty: nothing)."""

    def __iter__(self):
        from vitsd_runtime.images.loading import load_image

        for path in self._paths:
            try:
                image = load_image(path, self._spec, self._fit)
            except VitsdError as error:
                self.waiting.append((path, str(error)))
                if (
                    isinstance(error, UsageError) and len(self._paths) == 1
                ):  # the only image named does not exist
                    raise
                continue
            self.waiting.append((path, ""))
            yield image


def _text(path, predictions, error=""):
    if not error:
        print(
            f"{path}: " + ", ".join(f"{p.label} {100 * p.probability:.1f} %" for p in predictions)
        )


def _json(path, predictions, error=""):
    answer = {"error": error} if error else {"predictions": [vars(p) for p in predictions]}
    print(json.dumps({"image": str(path), **answer}))


class _Csv:
    def __init__(self):
        self._writer = csv.writer(sys.stdout)
        self._writer.writerow(["image", "rank", "label", "index", "probability", "error"])

    def __call__(self, path, predictions, error=""):
        if error:
            self._writer.writerow([path, "", "", "", "", error])
        for rank, p in enumerate(predictions, 1):
            self._writer.writerow([path, rank, p.label, p.index, f"{p.probability:.6f}", ""])


def _tta(text: str):
    try:
        return text if text == "flip" else console.positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"must be flip or a whole number from 1; got {text!r}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
