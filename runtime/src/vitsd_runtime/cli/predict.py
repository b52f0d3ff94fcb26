"""``vitsd-predict``: classify images."""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitsd_runtime.classifier import (
    BATCH_SIZE,
    DEFAULT_TOP_K,
    MIN_CONFIDENCE,
    TOP_K,
    Classifier,
)
from vitsd_runtime.cli import app, cluster, live, options, output, shard
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import SUFFIXES
from vitsd_runtime.formats.saved_model import is_saved_model
from vitsd_runtime.images.files import ImageScan, find_images
from vitsd_runtime.images.kinds import HEAD_BYTES, is_known
from vitsd_runtime.images.loading import is_image_file, load_for_model
from vitsd_runtime.images.reading import is_url
from vitsd_runtime.images.tta import make_views
from vitsd_runtime.models.catalog import BUNDLED, MODELS, bundled_model
from vitsd_runtime.sharding import Shard
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.system.parallel import map_in_order
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import RESIZE_MODES, UInt8Array
from vitsd_runtime.validation import Option

_RENAMED = {**options.RENAMED, "--fit": "--resize-mode"}
_BELONGS_TO = {
    "every": ("camera", "watch"),
    "output": ("watch", "shard", "engine"),
    "address": ("engine",),
}
"""Options that mean nothing without one of these."""
_ONE_BY_ONE = ("camera", "watch", "shard")
"""Modes in which one image is at work at a time."""
_WORKERS = Option("workers", int, at_least=1, at_most=100_000)
_BATCHES_A_TASK = 4
_FEW = 6
"""Images that are answered sooner than the engine's threads are measured."""
_LEVELS_OF_12_BITS = 16
"""That are left when values of 12 bits are taken for 16 and brought to 8."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-predict",
        usage="%(prog)s [options] [MODEL] IMAGE|DIR ...\n"
        "       %(prog)s [options] [MODEL] --camera [N|URL|FILE]\n"
        "       %(prog)s [options] [MODEL] --watch DIR\n"
        "       %(prog)s [options] [MODEL] IMAGE|DIR ... --shard I/N --output FILE\n"
        "       %(prog)s [options] [MODEL] SOURCE ... --engine ray|spark --output DIR",
        description="Classify images with an exported model.",
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE|DIR",
        help="image files, folders of them, or - for an image on standard input; the first may be "
        "the model instead, a .tflite or .onnx file",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="the model, also a SavedModel folder, which is a program that it runs, or "
        f"{options.NAMES} (default: {BUNDLED})",
    )
    parser.add_argument(
        "--top-k",
        type=options.type_of(TOP_K),
        default=DEFAULT_TOP_K,
        metavar="K",
        help="classes to show (default: %(default)s)",
    )
    parser.add_argument(
        "--min-confidence",
        type=options.type_of(MIN_CONFIDENCE),
        metavar="X",
        help='say "don\'t know" where no class has this probability, 0 to 1 (default: the '
        "model's threshold)",
    )
    parser.add_argument(
        "--batch-size",
        type=options.type_of(BATCH_SIZE),
        default=8,
        metavar="N",
        help="default: 8",
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
    options.add_num_threads_option(parser)
    options.add_backend_option(parser)
    parser.add_argument(
        "--workers",
        type=options.type_of(_WORKERS),
        metavar="N",
        help="images or batches in work at the same time (default: one for each usable core; with "
        "--engine: one for each CPU of the cluster)",
    )
    options.add_model_options(parser)
    modes = parser.add_mutually_exclusive_group()
    live.add_options(parser, modes)
    modes.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="classify the I-th of N shares of the images, on one of N machines; needs --output",
    )
    cluster.add_options(parser, modes)
    parser.add_argument(
        "--output",
        metavar="FILE|DIR",
        help="with --watch: append the answers to FILE, as JSON lines, each exactly once however "
        "the command ends (default: print them, and remember in DIR what was answered); with "
        "--shard: JSON lines of all its images, once they are complete; with --engine: the folder "
        "of the answers",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per image and line")
    form.add_argument("--csv", action="store_true", help=f"CSV: {', '.join(output.CSV_COLUMNS)}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-runtime", renamed=_RENAMED)


def _main(arguments: argparse.Namespace) -> int:
    _check_together(arguments)
    if cluster.is_asked_for(arguments):
        _answer_on_cluster(arguments)
        return 0
    if live.is_asked_for(arguments):
        live.run(_load(_model_alone(arguments.model, arguments.images), arguments), arguments)
        return 0
    model, names = _model_and_images(arguments.model, arguments.images)
    if names.count("-") > 1:
        raise UsageError("Standard input holds one image: name - once.")
    if "" in names:  # pathlib takes it for the current folder
        raise UsageError("The name of an image is empty: is it that of an unset variable?")
    if arguments.shard is not None:
        shard.check(arguments, names)
    sources = list(_sources(names, arguments.shard))
    workers = _choose_workers(arguments, len(sources))
    classifier = _load(model, arguments)

    def load(source: str | Path) -> UInt8Array:
        opened = sys.stdin.buffer if source == "-" else source
        return load_for_model(opened, classifier.spec, arguments.resize_mode)

    answer_all = functools.partial(_answers, classifier, arguments, workers)
    if arguments.shard is None:
        return _show_answers(answer_all(sources, load), len(sources), arguments)
    shard.answer_shard(classifier, sources, arguments, load, answer_all)
    return 0


def _check_together(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that mean nothing together, or alone."""
    for name, owners in _BELONGS_TO.items():
        alone = all(getattr(arguments, each) is None for each in owners)
        if alone and getattr(arguments, name) is not None:
            *others, last = (f"`{owner}`" for owner in owners)
            listed = f"{', '.join(others)} and {last}" if others else last
            raise UsageError(f"`{name}` belongs to {listed}.")
    for name in _ONE_BY_ONE:
        if arguments.workers is not None and getattr(arguments, name) is not None:
            raise UsageError(f"With `{name}`, images are answered one by one: leave out `workers`.")


def _show_answers(
    answers: Iterator[tuple[str | Path, output.Answer]], count: int, arguments: argparse.Namespace
) -> int:
    """Print every answer; returns the command's exit code."""
    show = output.csv_printer() if arguments.csv else output.show_text
    if arguments.json:
        show = output.show_json
    failed = 0
    for source, answer in answers:
        if isinstance(answer, str):
            failed += 1
            print(f"vitsd-predict: error: {answer}", file=sys.stderr)
        show(str(source), answer)
    if failed:
        print(f"vitsd-predict: {failed} of {count} images failed", file=sys.stderr)
    return 1 if failed else 0


def _answer_on_cluster(arguments: argparse.Namespace) -> None:
    model, sources = _take_model(arguments.model, arguments.images)
    arguments.num_threads = arguments.num_threads or 1  # workers are many
    classifier = _load(_bundled() if model is None else Path(model), arguments)
    cluster.run(classifier, sources, arguments)


def _load(model: Path, arguments: argparse.Namespace) -> Classifier:
    return Classifier.load(
        model,
        num_threads=arguments.num_threads,
        backend=arguments.backend,
        batch_size=arguments.batch_size,
        min_confidence=arguments.min_confidence,
        spec=options.read_spec_option(arguments.spec),
        verify=arguments.verify,
        allow_any_operation=arguments.allow_any_operation,
    )


def _sources(names: Sequence[str], shard: Shard | None) -> Iterator[str | Path]:
    """The images that are meant, in order; folders stand for those in them.

    In a shard, an image is meant once: in the share of the name by which it comes first.
    """
    seen: set[str] = set()
    for folder, source in _named(names):
        if shard is not None:
            place = os.path.abspath(source)
            if place in seen:
                continue
            seen.add(place)
            if not shard.holds(_name_in(folder, source)):
                continue
        yield source


def _named(names: Sequence[str]) -> Iterator[tuple[str, str | Path]]:
    """Each image, behind the folder that was named for it; "" where it was named itself."""
    for name in names:
        if not Path(name).is_dir():
            yield "", name
            continue
        scan = _find_images(name)
        if left_out := scan.describe():
            output.note(f"{printable(name)}: {left_out}")
        for file in scan.files:
            yield name, file


def _name_in(folder: str, source: str | Path) -> str:
    return Path(source).relative_to(folder).as_posix() if folder else str(source)


def _find_images(folder: str) -> ImageScan:
    try:
        return find_images(folder)
    except UsageError as error:
        if is_saved_model(folder):
            raise UsageError(
                f"{printable(folder)} is a SavedModel, not a folder of images: name it with "
                "`model`. It is a program, so do that only if you trust it."
            ) from error
        raise


def _choose_workers(arguments: argparse.Namespace, images: int) -> int:
    """How many batches are in work at once; engines get one thread each where it is several."""
    batches = -(-images // arguments.batch_size)
    workers: int = arguments.workers or usable_cores()
    if arguments.num_threads is not None and arguments.workers is None:
        workers //= arguments.num_threads
    if arguments.shard is not None:  # it notes which one image is being read
        workers = 1
    workers = max(1, min(workers, batches))
    if (workers > 1 or images <= _FEW) and arguments.num_threads is None:
        arguments.num_threads = 1
    return workers


class _Reading(NamedTuple):
    """An image, or the reason why it can't be read."""

    source: str | Path
    pixels: UInt8Array | None
    error: str = ""


def _answers(
    classifier: Classifier,
    arguments: argparse.Namespace,
    workers: int,
    sources: Sequence[str | Path],
    load: shard.Load,
) -> Iterator[tuple[str | Path, output.Answer]]:
    """Every image with its answer, in order."""
    views = make_views(arguments.tta, classifier.spec)
    alone = len(sources) == 1

    def answer(chunk: list[str | Path]) -> list[tuple[_Reading, output.Answer]]:
        readings = [_read(source, load, alone) for source in chunk]
        pixels = [reading.pixels for reading in readings if reading.pixels is not None]
        # Not `predict`, which would scale the values of files once more.
        rows = iter(classifier.probabilities(np.stack(pixels), views) if pixels else ())
        return [
            (each, each.error if each.pixels is None else classifier.top(next(rows), top_k))
            for each in readings
        ]

    top_k = arguments.top_k
    # Several batches a task, where there are many: threads get in each other's way between tasks.
    batches = min(_BATCHES_A_TASK, max(1, len(sources) // (classifier.batch_size * workers)))
    size = classifier.batch_size * (batches if workers > 1 else 1)
    for answered in map_in_order(answer, _chunks(sources, size), workers):
        for reading, classes in answered:
            if oddity := _oddity(reading.pixels, classifier.spec):
                output.note(f"{printable(reading.source)} {oddity}")
            yield reading.source, classes


def _chunks(sources: Sequence[str | Path], size: int) -> Iterator[list[str | Path]]:
    remaining = iter(sources)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk


def _read(source: str | Path, load: shard.Load, alone: bool) -> _Reading:
    try:
        return _Reading(source, load(source))
    except VitsdError as error:
        # A single missing image is a usage error.
        if isinstance(error, UsageError) and alone:
            raise
        return _Reading(source, None, str(error))


def _oddity(pixels: UInt8Array | None, spec: ModelSpec) -> str | None:
    if pixels is None:
        return None
    if pixels.max() == pixels.min():
        return "shows nothing: all its pixels are equal"
    if pixels.max() < _LEVELS_OF_12_BITS and spec.value_range is None:
        return (
            "is almost black: if its values have 10 or 12 bits in a file of 16, it needs a model "
            "that was trained with their range"
        )
    return None


def _model_and_images(model: str | None, words: list[str]) -> tuple[Path, list[str]]:
    """Tell MODEL IMAGE... from IMAGE...

    A model is what ``--model`` names, or a first word that is a bundled model's name or has the
    ending of a model file: never a folder, because one with photos may hold a SavedModel too, and
    that is a program.
    """
    if not words:
        raise UsageError("There is nothing to classify: name images, or use `camera` or `watch`.")
    model, words = _take_model(model, words)
    named = [word for word in words if _is_model_name(word)]
    if named:
        raise UsageError(f"{printable(named[0])} is a model: name one, before the images.")
    if model is not None and not words:
        raise UsageError(f"{printable(model)} has no images to classify: name some after it.")
    if model is not None:
        return Path(model), words
    if not _may_be_image(words[0]):
        raise UsageError(
            f"{printable(words[0])} is neither an image nor the name of a model file; use "
            "vitsd-predict [MODEL] IMAGE ..."
        )
    return _bundled(), words


def _model_alone(model: str | None, words: list[str]) -> Path:
    """The model, where there are no images to name."""
    model, words = _take_model(model, words)
    if words:
        raise UsageError(
            f"{printable(words[0])} is one word too many: with `camera` and `watch`, only a model "
            "is named."
        )
    return Path(model) if model is not None else _bundled()


def _take_model(model: str | None, words: list[str]) -> tuple[str | None, list[str]]:
    """The first word is the model, if it has such a name and ``--model`` names none."""
    if model is None and words and _is_model_name(words[0]):
        return words[0], words[1:]
    return model, words


def _is_model_name(word: str) -> bool:
    return Path(word).suffix.lower() in SUFFIXES or (word in MODELS and not Path(word).exists())


def _bundled() -> Path:
    print(
        f"Model: {BUNDLED}, which comes with the runtime and knows the 100 classes of CIFAR-100",
        file=sys.stderr,
    )
    return bundled_model()


def _may_be_image(name: str) -> bool:
    """Whether a word that stands where a model may stand is rather an image, maybe a broken one.

    Raises:
        UsageError: there is nothing of this name, or it is a folder of models.
    """
    path = Path(name)
    if name in ("", "-"):
        return True
    if path.is_dir():
        _check_no_models(path)
        return True
    if is_image_file(path) or is_url(name):
        return True
    if not path.exists():
        raise UsageError(f"There is no image or folder {printable(name)!r}.")
    if not path.is_file():
        return True  # a pipe, such as <(...)
    try:
        with open(path, "rb") as file:
            return is_known(file.read(HEAD_BYTES))
    except OSError:  # said when it is read
        return True


def _check_no_models(folder: Path) -> None:
    """A folder of exported models, maybe with plots beside them, is not meant as one of images."""
    inside = [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    if inside:
        raise UsageError(
            f"{printable(folder)} holds models, such as {printable(inside[0])}: name the exported "
            "model itself, or say with `model` which is to classify the images in it."
        )


def _tta(text: str) -> str | int:
    try:
        return text if text == "flip" else options.positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"must be flip or a whole number from 1; got {text!r}"
        ) from error


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
