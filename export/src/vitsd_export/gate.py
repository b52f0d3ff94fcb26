"""Do two models give the same answers?

Measured on labeled images, each model run as its user would run it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vitsd.evaluation.metrics import (
    Hits,
    agreement,
    paired_difference,
    top_k_hits,
)
from vitsd.evaluation.predict import model_logits, pixel_logits
from vitsd_export.quantization.schemes import SCHEMES, Tolerance
from vitsd_runtime import Classifier
from vitsd_runtime.accuracy import balanced_accuracy
from vitsd_runtime.formats import model_bytes
from vitsd_runtime.spec import ModelSpec, ParityFigures
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.system.text import distinct_names, first_few, printable
from vitsd_runtime.types import AnyArray, Float32Array, PathLike, Quantization, UInt8Array

_BATCH_SIZE = 64
_NAMED = 5
"""Classes that lost most, in the figures."""
_WORTH_A_NOTE = 0.005
"""Fraction by which the balanced accuracy falls more than the top-1 accuracy."""
_FALSE_ALARMS = 0.01
"""Probability that a file within its tolerance fails for a class."""


@dataclass(frozen=True, kw_only=True)
class Comparison(ParityFigures):
    """One model against the reference, on the same images."""

    path: str
    quantization: Quantization
    bytes: int
    """Size of the file, or of all files of a SavedModel."""

    @classmethod
    def of(cls, figures: ParityFigures, path: str, spec: ModelSpec, bytes: int) -> Comparison:
        """Figures as those of the model at ``path``."""
        quantization = _quantization(spec)
        return cls(**vars(figures), path=path, quantization=quantization, bytes=bytes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serializable."""
        return {**dataclasses.asdict(self), "passed": self.passed}


def compare(
    path: PathLike,
    spec: ModelSpec,
    images: UInt8Array,
    labels: AnyArray,
    reference: AnyArray,
    logits: AnyArray | None = None,
    data: str = "",
) -> Comparison:
    """Compare a model with a reference's logits.

    Args:
        path: the model: ``.keras``, or anything that the runtime loads.
        spec: the model's own spec; its quantization decides the tolerance.
        images: uint8 ``(n, *input_size)``.
        labels: ``(n,)``, indices of the model's classes.
        reference: float32 ``(n, classes)``, the reference's logits for ``images``.
        logits: the model's own logits for ``images``, if they are at hand.
        data: name of the dataset, for the record.
    """
    own = model_logits(path, images) if logits is None else logits
    figures = measure_parity(own, labels, reference, spec, data)
    return Comparison.of(figures, str(path), spec, model_bytes(path))


def exported_logits(path: Path, spec: ModelSpec, images: UInt8Array) -> Float32Array:
    """Logits of a file that carries no spec yet, as a device computes them.

    Args:
        path: the file or SavedModel folder.
        spec: that it will carry.
        images: uint8 ``(n, *input_size)``.

    Raises:
        VitsdError: the engine refuses the file, or it does not fit the spec.
    """
    classifier = Classifier.load(
        path, spec=spec, batch_size=_BATCH_SIZE, num_threads=usable_cores()
    )
    step = 4 * _BATCH_SIZE
    starts = tqdm(range(0, len(images), step), path.name, leave=False, disable=None)
    return np.concatenate([pixel_logits(classifier, images[i : i + step]) for i in starts])


def measure_parity(
    logits: AnyArray, labels: AnyArray, reference: AnyArray, spec: ModelSpec, data: str
) -> ParityFigures:
    """How far logits are from a reference's, and what of it is beyond the tolerance.

    Args:
        logits: float32 ``(n, classes)``.
        labels: ``(n,)``, indices of the classes.
        reference: float32 ``(n, classes)``.
        spec: of the model that gave ``logits``; its quantization decides the tolerance.
        data: name of the dataset.
    """
    difference = np.abs(logits - reference)
    hits, reference_hits = top_k_hits(logits, labels, 1), top_k_hits(reference, labels, 1)
    classes = _Classes.count(hits, reference_hits, labels, spec.class_names)
    balanced = balanced_accuracy(hits, labels)
    figures = ParityFigures(
        data=data,
        images=len(labels),
        top1=float(hits.mean()),
        top5=float(top_k_hits(logits, labels, 5).mean()),
        agreement=agreement(logits, reference),
        max_difference=_finite(difference.max()),
        mean_difference=_finite(difference.mean()),
        relative_difference=_finite(difference.max() / max(reference.std(), 1e-12)),
        top1_change=paired_difference(reference_hits, hits),
        failures=(),
        balanced_accuracy=balanced,
        balanced_change=balanced - balanced_accuracy(reference_hits, labels),
        lost_recall=classes.lost_recall(),
    )
    tolerance = SCHEMES[_quantization(spec)].tolerance
    failures = (*_failures(figures, tolerance), *classes.failures(tolerance))
    return dataclasses.replace(figures, failures=failures)


@dataclass(frozen=True)
class _Classes:
    """Images and right answers of each class that has images, those that lost most first."""

    rows: tuple[tuple[str, int, int, int], ...]
    """Name, images, right answers, right answers of the reference."""

    @classmethod
    def count(
        cls, hits: Hits, reference_hits: Hits, labels: AnyArray, names: Sequence[str]
    ) -> _Classes:
        images, right, before = (
            np.bincount(labels[chosen], minlength=len(names)).tolist()
            for chosen in (slice(None), hits, reference_hits)
        )
        rows = [row for row in zip(names, images, right, before, strict=True) if row[1]]
        return cls(tuple(sorted(rows, key=lambda row: (row[2] - row[3]) / row[1])))

    def lost_recall(self) -> dict[str, tuple[float, float]]:
        """Recall and the reference's, of the classes that lost most."""
        return {
            name: (right / images, before / images)
            for name, images, right, before in self.rows[:_NAMED]
            if right < before
        }

    def failures(self, tolerance: Tolerance) -> Iterator[str]:
        """Classes that lost more right answers than the tolerated changes of answers explain.

        Top-1 accuracy hardly notices when a small class is never answered any more, and a limit
        on the balanced accuracy would fail by chance where a class has few images. So each class
        is tested: if the answers that may change (``1 - tolerance.agreement`` of them) were spread
        evenly over all images, the right answers that it lost would be binomial. It fails where
        as many would be lost with a probability below 1 % divided by the number of classes
        (Bonferroni's correction), so a file within its tolerance fails at most once in a hundred
        times, whatever the classes' sizes. With int8: 2 of 2 images in one of 3 classes, 3 of 4,
        4 of 12, or 12 of 100 in one of 10 classes.
        """
        limit = _FALSE_ALARMS / len(self.rows)
        collapsed = [
            f"{printable(name, 40)} {100 * before / images:.0f} -> {100 * right / images:.0f} % of "
            f"{images} images"
            for name, images, right, before in self.rows
            if _at_least(before - right, images, 1 - tolerance.agreement) < limit
        ]
        if collapsed:
            yield f"recall of {first_few(collapsed, limit=100)}"


def _at_least(lost: int, images: int, probability: float) -> float:
    """Probability that a binomial variable reaches ``lost``."""
    if lost <= 0 or probability == 0:
        return float(lost <= 0)
    k = np.arange(lost)
    choices = np.cumsum(np.log([1.0, *((images - k[:-1]) / (k[:-1] + 1))]))  # of k images
    logarithms = choices + k * math.log(probability) + (images - k) * math.log1p(-probability)
    return float(1 - np.exp(logarithms).sum())


def _quantization(spec: ModelSpec) -> Quantization:
    return spec.export.quantization if spec.export else "none"


def _finite(value: np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None


def _failures(figures: ParityFigures, tolerance: Tolerance) -> Iterator[str]:
    relative, change = figures.relative_difference, figures.top1_change[0]
    if relative is None:
        yield "logits are NaN or infinite"
        return
    if tolerance.logit_difference is not None and relative > tolerance.logit_difference:
        yield (
            f"largest logit difference {relative:.1e} of the logits' spread (at most "
            f"{tolerance.logit_difference:.0e})"
        )
    if figures.agreement < tolerance.agreement:
        yield (
            f"top-1 agreement {100 * figures.agreement:.2f} % (at least "
            f"{100 * tolerance.agreement:g} %)"
        )
    if tolerance.top1_drop is not None and -change > tolerance.top1_drop:
        yield (
            f"top-1 accuracy {100 * change:+.2f} points (at most {100 * tolerance.top1_drop:g} "
            "may be lost)"
        )


HEADERS = (
    "model",
    "size MB",
    "top-1 %",
    "top-5 %",
    "change (95 %)",
    "agreement %",
    "max |diff|",
    "mean |diff|",
    "verdict",
)


def table_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Cells for :data:`HEADERS`."""
    names = distinct_names(comparison.path for comparison in comparisons)
    return [_row(name, comparison) for name, comparison in zip(names, comparisons, strict=True)]


def balance_notes(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What the table hides: files that lost more of small classes than of all images together."""
    names = distinct_names(comparison.path for comparison in comparisons)
    for name, comparison in zip(names, comparisons, strict=True):
        balanced, change = comparison.balanced_accuracy, comparison.balanced_change
        if balanced is None or change is None:
            continue
        if change < comparison.top1_change[0] - _WORTH_A_NOTE:
            losses = [
                f"{printable(of, 40)} {100 * before:.0f} -> {100 * recall:.0f} %"
                for of, (recall, before) in comparison.lost_recall.items()
            ]
            yield (
                f"{name}: balanced accuracy {100 * balanced:.2f} % ({100 * change:+.2f}); recall "
                f"of {', '.join(losses)}"
            )


def _row(name: str, comparison: Comparison) -> list[str]:
    change, low, high = (100 * value for value in comparison.top1_change)
    differences = (comparison.max_difference, comparison.mean_difference)
    return [
        name,
        f"{comparison.bytes / 1e6:.2f}",
        f"{100 * comparison.top1:.2f}",
        f"{100 * comparison.top5:.2f}",
        f"{change:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{100 * comparison.agreement:.2f}",
        *("n/a" if value is None else f"{value:.2g}" for value in differences),
        "ok" if comparison.passed else "FAIL",
    ]
