"""Labeled images as uint8 arrays, in training, validation and test splits."""

from __future__ import annotations

import dataclasses
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vitsd.data.cuts import cut_by_content, cut_by_position
from vitsd.data.identity import Identities, pixel_identities
from vitsd.data.stored import Images, choose
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.text import first_few, printable
from vitsd_runtime.types import AnyArray, ResizeMode, SplitRule, ValueRange

SPLITS = ("train", "val", "test")
ALL = "all"
"""Instead of a split: all images of a source, none of which was trained on."""
_FEW_REPEATS = 0.01
"""Fraction of the images that may be trained on without distorting figures."""
_log = logging.getLogger(__name__)
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    images: Images
    """``(n, height, width, channels)``, 0-255; those of a packed dataset stay in their file."""
    labels: Labels
    """``(n,)``, indices into the dataset's class names."""
    origins: Identities | None = None
    """``(n,)``, identities of what the images were made of: files, or images of another size."""

    @cached_property
    def identities(self) -> Identities:
        """``(n,)``; equal for equal images."""
        return pixel_identities(self.images) if self.origins is None else self.origins

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: AnyArray) -> Split:
        """The images at these indices, in their order."""
        origins = None if self.origins is None else self.origins[indices]
        return Split(choose(self.images, indices), self.labels[indices], origins)

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
    split_rule: SplitRule = "content"
    """For :meth:`with_validation`."""
    value_range: ValueRange | None = None
    """The values that became 0 and 255, on a device too; None: those of their type."""
    reducing_gap: float | None = None
    """As for :func:`vitsd_runtime.load_image`, on a device too."""

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
        train, val = hold_out(self.train, fraction, "val", self.split_rule)
        return dataclasses.replace(self, train=train, val=val)

    def repeats(self) -> dict[str, int]:
        """How many validation and test images are training images too, where some are."""
        counts = {
            name: int(np.isin(split.identities, self.train.identities).sum())
            for name, split in (("val", self.val), ("test", self.test))
            if split is not None
        }
        return {name: count for name, count in counts.items() if count}

    def split(self, name: str, validation_fraction: float = 0.1) -> Split:
        """``train``, ``val`` or ``test``; the first two as :meth:`with_validation` leaves them.

        Raises:
            UsageError: there is no such split, or there are too few images.
        """
        if name not in SPLITS:
            raise UsageError(f"There is no split {printable(name)!r}: use {', '.join(SPLITS)}.")
        split: Split | None = getattr(self.with_validation(validation_fraction), name)
        if split is None:
            raise UsageError(f"{self.name} has no {name} split.")
        return split


@dataclass(frozen=True)
class LabeledImages:
    """All images of a source, to evaluate models on."""

    name: str
    class_names: tuple[str, ...]
    images: Split


def hold_out(
    split: Split, fraction: float, purpose: str, rule: SplitRule = "content"
) -> tuple[Split, Split]:
    """Split at random: ``(rest, held out)``.

    A class of two or more images is in both parts.

    Args:
        split: the images.
        fraction: of them, to hold out.
        purpose: the split that is made; cuts for different ones are independent.
        rule: what decides, see :mod:`vitsd.data.cuts`.

    Raises:
        UsageError: no class has two images.
    """
    if rule == "content":
        held_out = cut_by_content(split.labels, split.identities, fraction, purpose)
    else:
        held_out = cut_by_position(split.labels, fraction)
    if not held_out.any():
        raise UsageError(
            "There is one training image per class, or all of a class are the same: too few to "
            "hold some out; add images."
        )
    return split.take(np.flatnonzero(~held_out)), split.take(np.flatnonzero(held_out))


def join(splits: Sequence[Split]) -> Split:
    """All images of several splits, in their order."""
    if len(splits) == 1:
        return splits[0]
    origins = [split.origins for split in splits if split.origins is not None]
    return Split(
        np.concatenate([split.images[:] for split in splits]),
        np.concatenate([split.labels for split in splits]),
        np.concatenate(origins) if origins else None,
    )


def distort(repeats: int, images: int) -> bool:
    """Whether what is measured on so many images means little: too many were trained on.

    Few are no harm: many public datasets repeat some images.
    """
    return repeats > _FEW_REPEATS * images


def say_flattered(what: str, repeats: int, images: int) -> None:
    """Log that images which a model was trained on are among those it is measured on.

    As a warning if they distort what is measured.
    """
    level = logging.WARNING if distort(repeats, images) else logging.INFO
    _log.log(level, "%s: the accuracy on them is too good.", what)


def align_labels(dataset: Dataset | LabeledImages, class_names: Sequence[str]) -> Labels:
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
    # Names of folders are in composed form; a model's need not be.
    numbers = {unicodedata.normalize("NFC", name): i for i, name in enumerate(class_names)}
    numbers.update((name, i) for i, name in enumerate(class_names))
    if unknown := [name for name in dataset.class_names if name not in numbers]:
        raise UsageError(
            f"{dataset.name} has classes that the model was not trained on: {first_few(unknown)}. "
            f"The model knows {first_few(class_names)}."
        )
    return np.array([numbers[name] for name in dataset.class_names])


def check_dataset(dataset: Dataset) -> None:
    """Check that images, labels and class names fit each other.

    Raises:
        UsageError: they don't; the message says which.
    """
    if dataset.num_classes < 2:
        raise UsageError(
            f"{dataset.name} has {dataset.num_classes} class; a classifier needs at least two."
        )
    if bad := [name for name in dataset.class_names if not name.isprintable()]:
        raise UsageError(
            f"{dataset.name} has class names that can't be printed, such as {first_few(bad[:1])}."
        )
    if len(set(dataset.class_names)) < dataset.num_classes:
        raise UsageError(f"{dataset.name} has duplicate class names; they must differ.")
    for name in SPLITS:
        split = getattr(dataset, name)
        if split is not None:
            _check_split(dataset, name, split)
    _warn_of_classes_without_images(dataset)


def _warn_of_classes_without_images(dataset: Dataset) -> None:
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    if empty := [dataset.class_names[i] for i in np.flatnonzero(counts == 0)]:
        _log.warning(
            "%s has no training images of %s, so the model will hardly ever answer with them. "
            "Labels number the classes from 0, without gaps.",
            dataset.name,
            first_few(empty),
        )


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
