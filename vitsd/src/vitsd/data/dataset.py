"""Labeled images as uint8 arrays, in training, validation and test splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitsd_runtime.errors import UsageError
from vitsd_runtime.types import AnyArray, ResizeMode, UInt8Array

SPLITS = ("train", "val", "test")
SPLIT_SEED = 0
"""Splits that a source lacks are always cut from its training images in the same way: what was
held out in training is what calibration, parity and evaluation see."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    images: UInt8Array
    """``(n, height, width, channels)``, 0-255."""
    labels: Labels
    """``(n,)``, indices into the dataset's class names."""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: AnyArray) -> Split:
        """The images at these indices, in their order."""
        return Split(self.images[indices], self.labels[indices])

    def sample(self, limit: int | None, seed: int = 0) -> Split:
        """At most ``limit`` images, chosen at random; a seed always chooses the same ones."""
        if limit is None or limit >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:limit]))


@dataclass(frozen=True)
class Dataset:
    """Train, test and validation images; most sources get the last by :meth:`with_validation`."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    val: Split | None = None
    resize_mode: ResizeMode = "stretch"
    """How photos were brought to the size of the images, and how a device should do it."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, height, width, channels = self.train.images.shape
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def with_validation(self, fraction: float) -> Dataset:
        """Hold out that fraction of the training images, unless there is a validation split.

        Raises:
            UsageError: there are too few images.
        """
        if self.val is not None or fraction == 0:
            return self
        train, val = hold_out(self.train, fraction)
        return dataclasses.replace(self, train=train, val=val)

    def split(self, name: str, validation_fraction: float = 0.1) -> Split:
        """``train``, ``val`` or ``test``; the first two as :meth:`with_validation` leaves them.

        Raises:
            UsageError: there is no such split, or there are too few images.
        """
        split: Split | None = getattr(self.with_validation(validation_fraction), name)
        if split is None:
            raise UsageError(f"{self.name} has no {name} split.")
        return split


def hold_out(split: Split, fraction: float) -> tuple[Split, Split]:
    """Split at random, class by class: ``(rest, held out)``.

    A class of two or more images is in both parts.

    Raises:
        UsageError: no class has two images.
    """
    random = np.random.default_rng(SPLIT_SEED)
    chosen = []
    for label in np.unique(split.labels):
        members = random.permutation(np.flatnonzero(split.labels == label))
        chosen.append(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    held_out = np.sort(np.concatenate(chosen))
    if len(held_out) == 0:
        raise UsageError(
            "There is one training image per class, too few to hold some out; add images."
        )
    return split.take(np.setdiff1d(np.arange(len(split)), held_out)), split.take(held_out)


def align_labels(dataset: Dataset, class_names: Sequence[str]) -> Labels:
    """The model's class index of each class of a dataset.

    So a model can be evaluated on data that has only some of its classes.

    Args:
        dataset: the data.
        class_names: of the model.

    Returns:
        ``(dataset.num_classes,)``

    Raises:
        UsageError: the dataset has classes that the model does not know.
    """
    if unknown := [name for name in dataset.class_names if name not in class_names]:
        raise UsageError(
            f"{dataset.name} has classes that the model was not trained on: {first_few(unknown)}. "
            f"The model knows {first_few(class_names)}."
        )
    return np.array([class_names.index(name) for name in dataset.class_names])


def first_few(names: Sequence[str]) -> str:
    """At most five names, for a message."""
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def check_dataset(dataset: Dataset) -> None:
    """Check that images, labels and class names fit each other.

    Raises:
        UsageError: they don't; the message says which.
    """
    if dataset.num_classes < 2:
        raise UsageError(
            f"{dataset.name} has {dataset.num_classes} class; a classifier needs at least two."
        )
    if len(set(dataset.class_names)) < dataset.num_classes:
        raise UsageError(f"{dataset.name} has duplicate class names; they must differ.")
    for name in SPLITS:
        split = getattr(dataset, name)
        if split is not None:
            _check_split(dataset, name, split)


def _check_split(dataset: Dataset, name: str, split: Split) -> None:
    if len(split) == 0:
        raise UsageError(f"{dataset.name} has no {name} images.")
    if len(split.images) != len(split.labels):
        raise UsageError(
            f"{dataset.name}: {len(split.images)} {name} images but {len(split.labels)} labels."
        )
    if split.images.shape[1:] != dataset.image_shape:
        raise UsageError(
            f"{dataset.name}: {name} images are {split.images.shape[1:]}, training images "
            f"{dataset.image_shape}."
        )
    if split.labels.min() < 0 or split.labels.max() >= dataset.num_classes:
        raise UsageError(
            f"{dataset.name}: {name} labels reach from {split.labels.min()} to "
            f"{split.labels.max()}, but there are {dataset.num_classes} classes "
            f"(0 to {dataset.num_classes - 1})."
        )
