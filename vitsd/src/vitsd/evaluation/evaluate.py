"""Accuracy of a trained or exported model on labeled images."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitsd.data.dataset import ALL, Dataset, Labels, Split, align_labels, say_flattered
from vitsd.data.fingerprint import Fingerprint, Overlap
from vitsd.data.sources import load_dataset, load_labeled_images, reading_of
from vitsd.data.statistics import unlike_training
from vitsd.data.stored import Images
from vitsd.evaluation.metrics import accuracy_report
from vitsd.evaluation.predict import model_logits
from vitsd.evaluation.strangers import load_strangers, strangers_report
from vitsd.recipe import TrainingRecipe
from vitsd_runtime.classifier import softmax
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import require_spec
from vitsd_runtime.images.loading import load_image
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import AnyArray, PathLike

_log = logging.getLogger(__name__)


def evaluate(
    model: PathLike,
    source: PathLike,
    split: str = "test",
    limit: int | None = None,
    strangers: Sequence[PathLike] = (),
) -> dict[str, Any]:
    """Accuracy, calibration and "don't know" of a ``.keras`` file or any exported artifact.

    Args:
        model: its path.
        source: the dataset, as for :func:`vitsd.load_dataset`.
        split: ``train``, ``val`` or ``test``; or ``all``, for images that are all new.
        limit: use at most this many images of each source (a fixed random choice).
        strangers: images of things that the model was not trained to tell, as for
            :func:`vitsd.evaluation.strangers.load_strangers`.

    Returns:
        The report of :func:`vitsd.evaluation.metrics.accuracy_report`, with ``model``, ``data``,
        ``split`` and ``trained_on``: how many of the images the model was trained on (None if it
        does not say), and whether that is ``exact`` or estimated. For each of ``strangers``, what
        :func:`vitsd.evaluation.strangers.strangers_report` returns.

    Raises:
        UsageError: no such model or dataset, or they don't fit each other.
        VitsdError: a file is damaged, or the model's engine is missing.
    """
    spec = require_spec(model)
    # All that can be wrong with the request should come out before minutes of inference.
    unknown = [load_strangers(other, spec, limit) for other in strangers]
    name, chosen = load_labeled(source, spec, split, limit)
    warn_of_values(name, chosen, spec)
    overlap = trained_on(chosen, spec, split)
    logits = model_logits(model, chosen.images)
    report = accuracy_report(logits, chosen.labels, spec.class_names, spec.confidence)
    described = None if overlap is None else dataclasses.asdict(overlap)
    about = {"model": str(model), "data": str(source), "split": split, "trained_on": described}
    known = largest_probabilities(logits, spec)
    about_strangers = [
        strangers_report(
            other, known, largest_probabilities(model_logits(model, images), spec), spec.threshold
        )
        for other, images in zip(strangers, unknown, strict=True)
    ]
    return {**about, **report, "strangers": about_strangers}


def largest_probabilities(logits: AnyArray, spec: ModelSpec) -> AnyArray:
    """How sure a model is of its answers: ``(n,)`` for logits ``(n, classes)``."""
    largest: AnyArray = softmax(np.asarray(logits, np.float64), spec.temperature).max(axis=1)
    return largest


def load_labeled(
    source: PathLike, spec: ModelSpec, split: str, limit: int | None = None
) -> tuple[str, Split]:
    """The name of a dataset, and its images as a model takes them.

    Args:
        source: as for :func:`vitsd.load_dataset`.
        spec: of the model.
        split: ``train``, ``val``, ``test`` or ``all``.
        limit: at most this many images (a fixed random choice).

    Raises:
        UsageError, VitsdError: as :func:`load_matching` and :func:`labeled_images`.
    """
    if split != ALL:
        dataset = load_matching(source, spec)
        return dataset.name, labeled_images(dataset, spec, split, limit)
    loaded = load_labeled_images(source, **reading_of(source, spec))
    _check_channels(loaded.name, loaded.images, spec)
    numbers = align_labels(loaded, spec.class_names)
    return loaded.name, _for_model(loaded.images.sample(limit), spec, numbers)


def warn_of_values(name: str, images: Split, spec: ModelSpec) -> None:
    """Say it if images are scaled unlike those that a model was trained on.

    Args:
        name: of the dataset.
        images: from :func:`labeled_images` or :func:`load_labeled`.
        spec: of the model.
    """
    if oddity := unlike_training(images.images, spec.mean, spec.variance):
        _log.warning("%s: %s", name, oddity)


def overlap_with(images: Split, spec: ModelSpec) -> Overlap | None:
    """How many of the images a model was trained on; None if it does not say, or can't."""
    if spec.provenance.trained_on is None:
        return None
    return Fingerprint.from_text(spec.provenance.trained_on).overlap(images.identities)


def trained_on(images: Split, spec: ModelSpec, split: str) -> Overlap | None:
    """How many of the images a model was trained on; said as a warning if it distorts figures.

    Args:
        images: from :func:`labeled_images` or :func:`load_labeled`.
        spec: of the model.
        split: that they are of; training images are expected to be trained on.

    Returns:
        None if the model does not say what it was trained on.
    """
    overlap = overlap_with(images, spec)
    if overlap is not None and overlap.images and split != "train":
        about = "" if overlap.exact else "about "
        kind = "" if split == ALL else f"{split} "
        text = f"{about}{overlap.images} of {len(images)} {kind}images were trained on"
        say_flattered(text, overlap.images, len(images))
    return overlap


def load_matching(source: PathLike, spec: ModelSpec) -> Dataset:
    """A dataset whose images have the model's channels, split as for the model's training.

    Raises:
        UsageError: they have not, or there is no such dataset.
        VitsdError: a file is unreadable, or a download failed.
    """
    split_rule = spec.provenance.split_rule or "position"
    dataset = load_dataset(source, split_rule=split_rule, **reading_of(source, spec))
    _check_channels(dataset.name, dataset.train, spec)
    return dataset


def _check_channels(name: str, images: Split, spec: ModelSpec) -> None:
    channels = images.images.shape[3]
    if channels != spec.input_size[2]:
        raise UsageError(
            f"{printable(name)} has images with {channels} channels, the model takes "
            f"{spec.input_size[2]}."
        )


def labeled_images(
    dataset: Dataset, spec: ModelSpec, split: str, limit: int | None = None
) -> Split:
    """Images of a split as a model takes them.

    Args:
        dataset: of the model's channels.
        spec: of the model.
        split: ``train``, ``val`` or ``test``; what was held out in the model's training is in
            ``val``.
        limit: at most this many images (a fixed random choice).

    Returns:
        Images of the model's input size; labels that number the model's classes.

    Raises:
        UsageError: there is no such split, or the model does not know its classes.
    """
    numbers = align_labels(dataset, spec.class_names)
    fraction = spec.provenance.recipe.get("validation_fraction", TrainingRecipe.validation_fraction)
    # Validate through the recipe: the file is untrusted.
    fraction = TrainingRecipe(validation_fraction=fraction).validation_fraction
    return _for_model(dataset.split(split, fraction).sample(limit), spec, numbers)


def _for_model(split: Split, spec: ModelSpec, numbers: Labels) -> Split:
    """Images as a model takes them, which remember what they were."""
    images = _to_input_size(split.images, spec)
    return Split(images, numbers[split.labels], split.identities)


def _to_input_size(images: Images, spec: ModelSpec) -> Images:
    """Images of any size, brought to the model's input size exactly as the runtime does.

    Their values are in 0-255 already, whatever the model's ``value_range`` is.
    """
    if images.shape[1:] == spec.input_size:
        return images
    return np.stack([load_image(image, spec.input_size, spec.resize_mode) for image in images])
