"""Accuracy of a trained or exported model on labeled images."""

from __future__ import annotations

from typing import Any

import numpy as np

from vitsd.data.dataset import Dataset, Split, align_labels
from vitsd.data.sources import load_dataset
from vitsd.evaluation.metrics import accuracy_report
from vitsd.evaluation.predict import model_logits
from vitsd.recipe import TrainingRecipe
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import require_spec
from vitsd_runtime.images.loading import load_image
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import PathLike, UInt8Array


def evaluate(
    model: PathLike, source: PathLike, split: str = "test", limit: int | None = None
) -> dict[str, Any]:
    """Top-1, top-5 and per-class accuracy of a ``.keras`` file or any exported artifact.

    Args:
        model: its path.
        source: the dataset, as for :func:`vitsd.load_dataset`.
        split: ``train``, ``val`` or ``test``.
        limit: use at most this many images (a fixed random choice).

    Returns:
        The report of :func:`vitsd.evaluation.metrics.accuracy_report`, with ``model``, ``data``
        and ``split``.

    Raises:
        UsageError: no such model or dataset, or they don't fit each other.
        VitsdError: a file is damaged, or the model's engine is missing.
    """
    spec = require_spec(model)
    chosen = labeled_images(load_matching(source, spec), spec, split, limit)
    report = accuracy_report(model_logits(model, chosen.images), chosen.labels, spec.class_names)
    return {"model": str(model), "data": str(source), "split": split, **report}


def load_matching(source: PathLike, spec: ModelSpec) -> Dataset:
    """A dataset whose images have the model's channels.

    Raises:
        UsageError: they have not, or there is no such dataset.
        VitsdError: a file is unreadable, or a download failed.
    """
    height, width, channels = spec.input_size
    dataset = load_dataset(source, input_size=(height, width), resize_mode=spec.resize_mode)
    if dataset.image_shape[2] != channels:
        raise UsageError(
            f"{dataset.name} has images with {dataset.image_shape[2]} channels, the model takes "
            f"{channels}."
        )
    return dataset


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
    chosen = dataset.split(split, fraction).sample(limit)
    return Split(_to_input_size(chosen.images, spec), numbers[chosen.labels])


def _to_input_size(images: UInt8Array, spec: ModelSpec) -> UInt8Array:
    """Images of any size, brought to the model's input size exactly as the runtime does."""
    if images.shape[1:] == spec.input_size:
        return images
    return np.stack([load_image(image, spec.input_size, spec.resize_mode) for image in images])
