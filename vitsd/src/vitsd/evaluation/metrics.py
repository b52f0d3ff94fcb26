"""Accuracy figures from logits."""

from __future__ import annotations

import math

import numpy as np

from vitsd_runtime.classifier import softmax
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.types import AnyArray


def accuracy_report(logits: np.ndarray, labels: np.ndarray, class_names) -> dict:
    """Top-1 and top-5 with 95 % intervals, calibration, and per class: JSON-able, fractions in 0..1.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)``, indices into ``class_names``.

    Raises:
        VitsdError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise VitsdError(
            "The model's logits are not finite (NaN or infinite): it is damaged, or its training diverged."
        )
    hits = top_k_hits(logits, labels, 1)
    top5 = top_k_hits(logits, labels, 5)
    predicted = logits.argmax(axis=1)
    per_class = []
    for index, name in enumerate(class_names):
        members = labels == index
        chosen = int((predicted == index).sum())
        if members.any() or chosen:
            correct = int(hits[members].sum())
            per_class.append(
                {
                    "class": name,
                    "images": int(members.sum()),
                    "recall": correct / int(members.sum()) if members.any() else None,
                    "precision": correct / chosen if chosen else None,
                    "top5": float(top5[members].mean()) if members.any() else None,
                }
            )
    return {
        "images": len(labels),
        "classes": len(class_names),
        "top1": float(hits.mean()),
        "top1_interval": wilson_interval(int(hits.sum()), len(hits)),
        "top5": float(top5.mean()),
        **calibration(logits, labels),
        "per_class": per_class,
    }


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> dict:
    """How far the probabilities can be believed.

    Returns:
        ``ece``, the expected calibration error (C. Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599,
        equation 3): the mean distance between the probability of the chosen class and the fraction of right answers, in bins
        of equal width; and ``reliability``: for each bin that has images, its ``images``, mean ``confidence`` and
        ``accuracy``.
    """
    confidence = softmax(np.asarray(logits, np.float64)).max(axis=1)
    hits = top_k_hits(logits, labels, 1)
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    reliability = [
        {
            "images": int(members.sum()),
            "confidence": float(confidence[members].mean()),
            "accuracy": float(hits[members].mean()),
        }
        for members in (number == i for i in range(bins))
        if members.any()
    ]
    error = sum(
        row["images"] * abs(row["confidence"] - row["accuracy"]) for row in reliability
    ) / len(labels)
    return {"ece": error, "reliability": reliability}


def top_k_hits(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """bool ``(n,)``: whether the label is among the k largest logits; of equal logits, the first classes count first."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    columns = np.arange(logits.shape[1])
    ahead = (logits > own) | ((logits == own) & (columns < labels[:, None]))
    return ahead.sum(axis=1) < k


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 ``(classes, classes)``: rows are true classes, columns predicted ones."""
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def wilson_interval(successes: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion (E. B. Wilson, JASA 22, 1927)."""
    p = successes / total
    centre = p + z * z / (2 * total)
    reach = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    scale = 1 + z * z / total
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def paired_difference(
    hits_a: np.ndarray, hits_b: np.ndarray, z: float = 1.96
) -> tuple[float, float, float]:
    """Accuracy of b minus that of a on the same images, with its 95 % interval: ``(difference, low, high)``.

    The interval for paired proportions with Agresti and Min's correction (Statistics in Medicine 24, 2005: half a count
    is added to each cell of the 2x2 table), which stays honest when the two hardly differ.
    """
    n = len(hits_a)
    gained = int((~hits_a & hits_b).sum()) + 0.5
    lost = int((hits_a & ~hits_b).sum()) + 0.5
    adjusted = n + 2
    centre = (gained - lost) / adjusted
    reach = z * math.sqrt(gained + lost - (gained - lost) ** 2 / adjusted) / adjusted
    return (gained - lost) / n, centre - reach, centre + reach


def agreement(logits: AnyArray, reference: AnyArray) -> float:
    """Fraction of images that two models give the same top-1 class.

    Args:
        logits: ``(n, classes)``.
        reference: ``(n, classes)``, of the other model.
    """
    return float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean())
