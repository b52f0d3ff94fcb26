"""Too few images, or very different numbers of them in the classes: noticed before training.

And classes count alike if requested.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitsd.data.dataset import Labels
from vitsd_runtime.models.catalog import BUNDLED
from vitsd_runtime.system.text import first_few, printable
from vitsd_runtime.types import Float32Array

_FEW_OF_A_CLASS, _FEW_FROM_SCRATCH = 10, 1000
"""Fewer images than that are few: of one class, and of all where nothing is learned yet."""
_VERY_UNEQUAL = 10
"""From here on (largest class to smallest) a model may do best by never answering the smallest."""


def balanced_weights(labels: Labels, num_classes: int) -> Float32Array:
    """A weight for each class, with which all classes count alike: ``n / (k * n_c)``.

    For n images, k classes that have images and n_c images of class c; scikit-learn's
    ``class_weight="balanced"``. The mean weight of an image is 1, so learning rates keep their
    meaning.

    Args:
        labels: ``(n,)``, class indices.
        num_classes: length of the result.

    Returns:
        float32 ``(num_classes,)``; 0 for classes without images.
    """
    counts = np.bincount(labels, minlength=num_classes)
    there = counts > 0
    weights = np.zeros(num_classes, np.float32)
    weights[there] = len(labels) / (there.sum() * counts[there])
    return weights


def describe_scarcity(
    labels: Labels, class_names: Sequence[str], *, from_scratch: bool
) -> str | None:
    """What is to be said of training images that are few; None if they aren't.

    Args:
        labels: ``(n,)``, indices into ``class_names``.
        class_names: of all classes.
        from_scratch: whether a model that is trained already could be the start instead.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    found = []
    if len(few := np.flatnonzero((counts > 0) & (counts < _FEW_OF_A_CLASS))):
        smallest = [f"{counts[i]} of {printable(class_names[i])}" for i in few]
        found.append(
            f"Few training images: {first_few(smallest)}. Mistakes are likely; 20 of each class "
            "are a start."
        )
    if from_scratch and len(labels) < _FEW_FROM_SCRATCH:
        found.append(
            f"{len(labels)} training images are few to learn from nothing: "
            f"`pretrained={BUNDLED}` starts with a model that has learned to see."
        )
    return " ".join(found) or None


def describe_imbalance(labels: Labels, class_names: Sequence[str]) -> str | None:
    """What is to be said of training images whose classes are very unequal; None if they aren't.

    Args:
        labels: ``(n,)``, indices into ``class_names``.
        class_names: of all classes.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    names = [printable(name) for name in class_names]
    if missing := [name for name, count in zip(names, counts, strict=True) if count == 0]:
        return f"There are no training images of {first_few(missing)}: they can't be learned."
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] < _VERY_UNEQUAL * counts[smallest]:
        return None
    return (
        f"The classes are very unequal: {counts[largest]} training images of {names[largest]}, "
        f"{counts[smallest]} of {names[smallest]}. The model may hardly ever answer the small "
        "ones; `class_weights=balanced` makes all classes count alike."
    )
