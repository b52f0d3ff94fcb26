"""Accuracy on labeled images on the device itself, without the trainer."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats.archive import digest_file
from vitsd_runtime.images.files import is_hidden, scan_images
from vitsd_runtime.images.loading import load_for_model
from vitsd_runtime.images.tta import make_views
from vitsd_runtime.system.text import first_few, first_line, printable
from vitsd_runtime.types import AnyArray, PathLike, UInt8Array

LabeledFile = tuple[Path, int]
"""An image and the index of its class."""
NORMAL_95 = 1.96
"""Standard deviations of a normal distribution that a 95 % interval reaches to each side."""
_SPLIT = "test"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Accuracy:
    """Right answers; fractions in 0..1."""

    images: int
    """That could be read."""
    unreadable: int
    top1: float
    top1_interval: tuple[float, float]
    """See :func:`wilson_interval`."""
    top5: float
    balanced_accuracy: float
    """See :func:`balanced_accuracy`."""
    known: float
    """Share of the images that the model says it knows."""
    images_per_second: float
    """From the file to the answer."""


def find_labeled(folder: PathLike, class_names: Sequence[str]) -> list[LabeledFile]:
    """The images in a folder of class folders, or in its ``test/``.

    Args:
        folder: ``FOLDER/CLASS/*.png`` or ``FOLDER/test/CLASS/*.png``, as for ``vitsd-train``.
        class_names: of the model; it may know more classes than there are folders.

    Raises:
        UsageError: no such folder, a class that the model does not know, or no images.
        OSError: the folder can't be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"There is no folder {printable(root)}.")
    if _SPLIT not in class_names and (root / _SPLIT).is_dir():
        root = root / _SPLIT
    # Names of folders from macOS are decomposed; a model's need not be composed.
    numbers = {unicodedata.normalize("NFC", name): i for i, name in enumerate(class_names)}
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
    names = {path: unicodedata.normalize("NFC", path.name) for path in folders}
    if unknown := [name for name in names.values() if name not in numbers]:
        raise UsageError(
            f"{printable(root)} has folders that are no classes of the model: "
            f"{first_few(unknown)}. It knows {first_few(class_names)}."
        )
    files = [
        (file, numbers[name]) for path, name in names.items() for file in scan_images(path).files
    ]
    if not files:
        raise UsageError(f"No images in class folders: expected {printable(root)}/CLASS/*.png.")
    return files


def measure_accuracy(classifier: Classifier, files: Iterable[LabeledFile]) -> Accuracy:
    """Classify labeled images, as ``vitsd-predict`` does, and count the right answers.

    Images that can't be read are left out, with a warning.

    Args:
        classifier: the model.
        files: of :func:`find_labeled`; one batch of them is in memory at a time.

    Raises:
        VitsdError: no image can be read, or the engine fails.
    """
    start = time.perf_counter()
    unreadable: list[str] = []
    views = make_views(None, classifier.spec)
    rows = []
    readable = _readable(classifier, files, unreadable)
    while batch := list(itertools.islice(readable, classifier.batch_size)):
        probabilities = classifier.probabilities(np.stack([image for image, _ in batch]), views)
        for (_, label), row in zip(batch, probabilities):
            best = classifier.top(row, 5)
            rank = [prediction.index for prediction in best]
            rows.append((label, rank[0] == label, label in rank, best[0].known))
    seconds = time.perf_counter() - start
    if unreadable:
        shown = first_few(unreadable, limit=200)
        _log.warning("%d images were left out: %s", len(unreadable), shown)
    if not rows:
        raise VitsdError("None of the images can be read.")
    labels, top1, top5, known = np.array(rows).T
    return Accuracy(
        images=len(rows),
        unreadable=len(unreadable),
        top1=float(top1.mean()),
        top1_interval=wilson_interval(int(top1.sum()), len(rows)),
        top5=float(top5.mean()),
        balanced_accuracy=balanced_accuracy(top1, labels),
        known=float(known.mean()),
        images_per_second=len(rows) / seconds,
    )


def format_accuracy(accuracy: Accuracy) -> str:
    """One line of an :class:`Accuracy`."""
    low, high = accuracy.top1_interval
    return (
        f"{accuracy.images} images: top-1 {100 * accuracy.top1:.2f} % (95 % interval "
        f"{100 * low:.2f} to {100 * high:.2f}), top-5 {100 * accuracy.top5:.2f} %, balanced "
        f"{100 * accuracy.balanced_accuracy:.2f} %, known {100 * accuracy.known:.1f} %; "
        f"{accuracy.images_per_second:.0f} images/s with reading"
    )


def digest_labeled(files: Iterable[LabeledFile], class_names: Sequence[str]) -> str:
    """SHA-256 that tells whether two accuracies are of the same images and labels.

    It is that of a sorted line per image, its SHA-256 and its class; the files' own names and
    places don't matter. A file that can't be read counts by its class alone.

    Args:
        files: of :func:`find_labeled`.
        class_names: of the model.
    """

    def line(path: Path, label: int) -> str:
        try:
            content = digest_file(path)[1]
        except OSError:
            content = ""
        return f"{content}  {unicodedata.normalize('NFC', class_names[label])}\n"

    return hashlib.sha256("".join(sorted(line(*file) for file in files)).encode()).hexdigest()


def wilson_interval(successes: int, total: int, z: float = NORMAL_95) -> tuple[float, float]:
    """The 95 % interval of a proportion (E. B. Wilson, JASA 22, 1927)."""
    p = successes / total
    center = p + z * z / (2 * total)
    reach = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    scale = 1 + z * z / total
    return max(0.0, (center - reach) / scale), min(1.0, (center + reach) / scale)


def balanced_accuracy(hits: AnyArray, labels: AnyArray) -> float:
    """Mean over the classes that have images of the fraction of right answers, in 0..1.

    A model that always gives the same answer reaches ``1 / classes``, however unequal they are.
    (K. H. Brodersen et al., "The Balanced Accuracy and Its Posterior Distribution", ICPR 2010;
    ``sklearn.metrics.balanced_accuracy_score``.)

    Args:
        hits: ``(n,)``, whether the answer was right; n at least 1.
        labels: ``(n,)``, class indices.
    """
    images = np.bincount(labels)
    there = images > 0
    return float((np.bincount(labels, hits)[there] / images[there]).mean())


def _readable(
    classifier: Classifier, files: Iterable[LabeledFile], unreadable: list[str]
) -> Iterator[tuple[UInt8Array, int]]:
    for path, label in files:
        try:
            yield load_for_model(path, classifier.spec), label
        except (VitsdError, OSError) as error:
            unreadable.append(first_line(error))
