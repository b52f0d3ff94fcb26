"""Accuracy of a trained or exported model on labelled images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vitsd.data.dataset import Dataset, Split, align_labels, load_dataset, to_input_size
from vitsd.evaluation.metrics import accuracy_report
from vitsd.recipe import TrainingRecipe
from vitsd_runtime import Classifier
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import detect_format, require_spec
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.cores import physical_cores


def evaluate(
    model_path: str | os.PathLike, source: str, split: str = "test", limit: int | None = None
) -> dict:
    """Top-1, top-5 and per-class accuracy of a ``.keras`` file or any exported artifact.

    Args:
        model_path: the model.
        source: the dataset, as for :func:`vitsd.load_dataset`.
        split: ``train``, ``val`` or ``test``.
        limit: use at most this many images (a fixed random choice).

    Returns:
        The report of :func:`vitsd.evaluation.metrics.accuracy_report`, with ``model``, ``data`` and ``split``.
    """
    spec = require_spec(model_path)
    chosen = labelled_images(load_matching(source, spec), spec, split, limit)
    logits = model_logits(model_path, chosen.images)
    report = accuracy_report(logits, chosen.labels, spec.class_names)
    return {"model": str(model_path), "data": str(source), "split": split, **report}


def load_matching(source: str, spec: ModelSpec) -> Dataset:
    """A dataset whose images have the model's channels. Raises UsageError if they have not."""
    dataset = load_dataset(source, input_size=spec.input_size[:2], resize_mode=spec.resize_mode)
    if dataset.image_shape[2] != spec.input_size[2]:
        raise UsageError(
            f"{dataset.name} has images with {dataset.image_shape[2]} channels, the model takes {spec.input_size[2]}."
        )
    return dataset


def labelled_images(
    dataset: Dataset, spec: ModelSpec, split: str, limit: int | None = None
) -> Split:
    """A split of a dataset, its images of the model's input size and its labels numbered as the model's classes."""
    numbers = align_labels(dataset, spec.class_names)
    fraction = spec.provenance.recipe.get("validation_fraction", TrainingRecipe.validation_fraction)
    # Validate through the recipe: the file is untrusted.
    validation = TrainingRecipe(validation_fraction=fraction).validation_fraction
    chosen = dataset.split(split, validation).sample(limit)
    return Split(to_input_size(chosen.images, spec), numbers[chosen.labels])


def model_logits(
    model_path: str | os.PathLike, images: np.ndarray, batch_size: int = 64
) -> np.ndarray:
    """Float32 logits ``(n, classes)`` of uint8 images of the model's input size: Keras, or the runtime's engine."""
    if detect_format(model_path) == "keras":
        from vitsd.hub.saving import load_model
        from vitsd.training.train import predict_logits

        model = load_model(model_path)[0]

        def run(batch):
            return predict_logits(model, batch)
    else:
        run = Classifier.load(
            model_path, batch_size=batch_size, num_threads=physical_cores()
        ).logits
    starts = tqdm(
        range(0, len(images), 4 * batch_size), Path(model_path).name, leave=False, disable=None
    )
    return np.concatenate([run(images[start : start + 4 * batch_size]) for start in starts])
