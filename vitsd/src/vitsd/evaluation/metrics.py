"""Accuracy figures from logits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vitsd_runtime.accuracy import NORMAL_95, balanced_accuracy, wilson_interval
from vitsd_runtime.classifier import softmax
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.spec import Confidence
from vitsd_runtime.types import AnyArray

Hits = npt.NDArray[np.bool_]
_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
"""Fractions of the images, for which a report says how often the model is right."""
_OFTEN, _FEWEST = 0.2, 3
"""Share of a class's images, and their number, that are taken for one other class: worth a look."""


def accuracy_report(
    logits: AnyArray,
    labels: AnyArray,
    class_names: Sequence[str],
    confidence: Confidence | None = None,
) -> dict[str, Any]:
    """Top-1 and top-5, calibration, what the model knows, and figures per class.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)``, indices into ``class_names``.
        class_names: of the model.
        confidence: of the model, if it has one.

    Returns:
        JSON-serializable: ``images``, ``classes``, ``top1``, ``top1_interval`` (95 %), ``top5``,
        ``balanced_accuracy`` (see :func:`vitsd_runtime.accuracy.balanced_accuracy`), what
        :func:`calibration` and :func:`knowledge` return; ``confidence``, as in the spec, and
        ``ece_without_temperature``;
        ``per_class``: for each class that has images or was predicted, ``class``, ``images``,
        ``recall`` (its top-1), ``precision`` and ``top5``; ``never_predicted``: the classes that
        have images and were not predicted for any image; and ``mistaken``: pairs of classes, the
        worst first, where at least a fifth of the images of ``class`` are taken for ``answer``,
        their ``share`` and ``images``. Fractions are in 0..1, None where there is nothing to divide
        by.

    Raises:
        VitsdError: a logit is not finite.
    """
    check_finite(logits)
    temperature, threshold = 1.0, 0.0
    if confidence is not None:
        temperature, threshold = confidence.temperature, confidence.threshold
    calibrated = np.asarray(logits, np.float64) / temperature
    hits = top_k_hits(logits, labels, 1)
    top5 = top_k_hits(logits, labels, 5)
    predicted = logits.argmax(axis=1)
    per_class = _per_class(predicted, labels, top5, class_names)
    return {
        "images": len(labels),
        "classes": len(class_names),
        "top1": float(hits.mean()),
        "top1_interval": wilson_interval(int(hits.sum()), len(hits)),
        "top5": float(top5.mean()),
        "balanced_accuracy": balanced_accuracy(hits, labels),
        **calibration(calibrated, labels),
        **knowledge(calibrated, labels, threshold),
        "confidence": None if confidence is None else dataclasses.asdict(confidence),
        "ece_without_temperature": calibration(logits, labels)["ece"],
        "per_class": per_class,
        "never_predicted": [row["class"] for row in per_class if row["precision"] is None],
        "mistaken": _mistaken(predicted, labels, class_names),
    }


def check_finite(logits: AnyArray) -> None:
    """Raise VitsdError if a logit is NaN or infinite."""
    if not np.isfinite(logits).all():
        raise VitsdError(
            "The model's logits are not finite (NaN or infinite): it is damaged, or its training "
            "diverged."
        )


def _per_class(
    predicted: AnyArray, labels: AnyArray, top5: Hits, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    def count(classes: AnyArray) -> list[int]:
        numbers: list[int] = np.bincount(classes, minlength=len(class_names)).tolist()
        return numbers

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    right = predicted == labels
    counts = map(count, (labels, predicted, labels[right], labels[top5]))
    return [
        {
            "class": name,
            "images": images,
            "recall": share(correct, images),
            "precision": share(correct, chosen),
            "top5": share(among_five, images),
        }
        for name, images, chosen, correct, among_five in zip(class_names, *counts, strict=True)
        if images or chosen
    ]


def _mistaken(
    predicted: AnyArray, labels: AnyArray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Pairs of classes of which the first is often taken for the second, the worst first."""
    # Only pairs that occur: a whole confusion matrix of many classes would fill the memory.
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    shares = counts / np.bincount(labels)[pairs[0]]
    often = (pairs[0] != pairs[1]) & (shares >= _OFTEN) & (counts >= _FEWEST)
    order = np.flatnonzero(often)[np.argsort(-shares[often], kind="stable")]
    return [
        {
            "class": class_names[pairs[0, i]],
            "answer": class_names[pairs[1, i]],
            "share": float(shares[i]),
            "images": int(counts[i]),
        }
        for i in order
    ]


def calibration(logits: AnyArray, labels: AnyArray, bins: int = 15) -> dict[str, Any]:
    """How well the probabilities match the fraction of right answers.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)``, class indices.
        bins: of equal width, over the probability of the predicted class.

    Returns:
        ``ece``, the expected calibration error (C. Guo et al., "On Calibration of Modern Neural
        Networks", arXiv:1706.04599, equation 3): the mean distance between the probability of the
        predicted class and the fraction of right answers; and ``reliability``: for each bin that
        has images, its ``images``, mean ``confidence`` and ``accuracy``.
    """
    confidence = softmax(np.asarray(logits, np.float64)).max(axis=1)
    hits = top_k_hits(logits, labels, 1)
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    reliability: list[dict[str, Any]] = [
        {
            "images": int(members.sum()),
            "confidence": float(confidence[members].mean()),
            "accuracy": float(hits[members].mean()),
        }
        for members in (number == i for i in range(bins))
        if members.any()
    ]
    distances = (row["images"] * abs(row["confidence"] - row["accuracy"]) for row in reliability)
    return {"ece": sum(distances) / len(labels), "reliability": reliability}


def knowledge(logits: AnyArray, labels: AnyArray, threshold: float) -> dict[str, Any]:
    """How many images a model knows, and how often it is right about those.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)``, class indices.
        threshold: of the largest probability.

    Returns:
        ``known``, the fraction of images that reach the threshold; ``known_top1``, of them, None
        if there are none; and ``by_coverage``, rows of ``known``, ``min_confidence`` (the threshold
        that so many images reach) and ``top1`` of these images.
    """
    largest = softmax(np.asarray(logits, np.float64)).max(axis=1)
    hits = top_k_hits(logits, labels, 1)

    def share(least: float) -> tuple[float, float | None]:
        known = largest >= least
        return float(known.mean()), float(hits[known].mean()) if known.any() else None

    rows = []
    for coverage in _COVERAGES:
        least = coverage_threshold(largest, coverage)
        reached, top1 = share(least)
        rows.append({"known": reached, "min_confidence": least, "top1": top1})
    reached, top1 = share(threshold)
    return {"known": reached, "known_top1": top1, "by_coverage": rows}


def coverage_threshold(largest: AnyArray, coverage: float) -> float:
    """The highest threshold that a fraction of images reaches.

    Args:
        largest: ``(n,)``, each image's largest probability; n at least 1.
        coverage: of the images, in (0, 1].

    Returns:
        Rounded down to four decimals, so that no rounding of float32 on a device decides; in
        [0, 1).
    """
    return min(math.floor(highest_reached(largest, coverage) * 1e4), 9999) / 1e4


def highest_reached(scores: AnyArray, coverage: float) -> float:
    """The highest score that a fraction ``coverage``, in (0, 1], of the scores ``(n,)`` reaches."""
    left_out = min(math.floor((1 - coverage) * len(scores) + 1e-9), len(scores) - 1)
    return float(np.sort(scores)[left_out])


def agreement(logits: AnyArray, reference: AnyArray) -> float:
    """Fraction of images for which two models predict the same class, in 0..1.

    Args:
        logits: ``(n, classes)``, n at least 1.
        reference: of the other model, the same shape.
    """
    return float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean())


def top_k_hits(logits: AnyArray, labels: AnyArray, k: int) -> Hits:
    """Whether each label is among the k largest logits; of equal ones, the first classes count.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)``, class indices.
        k: at least 1.

    Returns:
        ``(n,)``
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    columns = np.arange(logits.shape[1])
    ahead = (logits > own) | ((logits == own) & (columns < labels[:, None]))
    hits: Hits = ahead.sum(axis=1) < k
    return hits


def confusion_matrix(
    predicted: AnyArray, labels: AnyArray, num_classes: int
) -> npt.NDArray[np.int64]:
    """Counts ``(classes, classes)``: rows are true classes, columns predicted ones.

    Args:
        predicted: ``(n,)``, class indices.
        labels: ``(n,)``, class indices.
        num_classes: side of the matrix.
    """
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def paired_difference(
    hits_a: Hits, hits_b: Hits, z: float = NORMAL_95
) -> tuple[float, float, float]:
    """Accuracy of b minus that of a on the same images, with its 95 % interval.

    The interval for paired proportions with Agresti and Min's correction (Statistics in Medicine
    24, 2005: half a count is added to each cell of the 2x2 table), which keeps its coverage when
    the two hardly differ.

    Args:
        hits_a: ``(n,)``, whether a was right.
        hits_b: ``(n,)``, whether b was right.
        z: standard deviations that the interval reaches to each side.

    Returns:
        ``(difference, low, high)``
    """
    n = len(hits_a)
    gained = int((~hits_a & hits_b).sum()) + 0.5
    lost = int((hits_a & ~hits_b).sum()) + 0.5
    adjusted = n + 2
    center = (gained - lost) / adjusted
    reach = z * math.sqrt(gained + lost - (gained - lost) ** 2 / adjusted) / adjusted
    return (gained - lost) / n, center - reach, center + reach
