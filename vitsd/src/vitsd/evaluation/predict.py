"""Logits of trained and exported models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from vitsd.data.stored import Images
from vitsd_runtime import Classifier
from vitsd_runtime.formats import detect_format
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.types import Float32Array, PathLike, UInt8Array

if TYPE_CHECKING:
    import keras

_BATCHES_AT_ONCE = 4
"""Between two steps of the progress bar."""
_PREDICTED_AT_ONCE = 16
"""Batches in memory, of images that are in a file."""


def predict_logits(model: keras.Model, images: Images, batch_size: int = 256) -> Float32Array:
    """Logits of a Keras model.

    Args:
        model: made by :func:`vitsd.build_vit`.
        images: uint8 ``(n, height, width, channels)`` of the model's input size.
        batch_size: images in a batch; it has no influence on the logits but for rounding.

    Returns:
        float32 ``(n, classes)``.
    """
    step = _PREDICTED_AT_ONCE * batch_size
    parts = (images[start : start + step] for start in range(0, len(images), step))
    logits = [model.predict(part, batch_size=batch_size, verbose=0) for part in parts]
    return np.asarray(np.concatenate(logits), np.float32)


def model_logits(model: PathLike, images: Images, batch_size: int = 64) -> Float32Array:
    """Logits of a model in a file: Keras runs a trained one, the runtime an exported one.

    Args:
        model: a ``.keras``, ``.tflite`` or ``.onnx`` file, or a SavedModel folder.
        images: ``(n, height, width, channels)`` of the model's input size.
        batch_size: images that the engine gets at once.

    Returns:
        float32 ``(n, classes)``.

    Raises:
        UsageError: no such model, or it carries no spec.
        VitsdError: the file is damaged, or its engine is missing or refuses it.
    """
    run = open_model(model, batch_size)
    step = _BATCHES_AT_ONCE * batch_size
    starts = tqdm(range(0, len(images), step), Path(model).name, leave=False, disable=None)
    return np.concatenate([run(images[start : start + step]) for start in starts])


def pixel_logits(classifier: Classifier, images: UInt8Array) -> Float32Array:
    """Logits of a loaded exported model for images whose values are in 0-255 already.

    :meth:`vitsd_runtime.Classifier.logits` would scale them once more for a model whose spec has a
    ``value_range``: there it expects the values of files.

    Args:
        classifier: of the model.
        images: ``(n, height, width, channels)`` of the model's input size.

    Returns:
        float32 ``(n, classes)``.
    """
    size = classifier.batch_size
    starts = range(0, len(images), size)
    batches = (classifier.prepare(images[start : start + size]) for start in starts)
    return np.concatenate([classifier.forward(batch) for batch in batches])


def compiled(model: keras.Model) -> Callable[[UInt8Array], Float32Array]:
    """The logits of a Keras model as a function that several threads may call.

    Args:
        model: its weights are taken as they are now.
    """
    import keras

    if keras.backend.backend() != "jax":
        alone = threading.Lock()

        def logits(images: UInt8Array) -> Float32Array:
            with alone:
                return predict_logits(model, images)

        return logits

    import jax

    weights = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]

    def forward(weights: Any, images: Any) -> Any:
        return model.stateless_call(*weights, images, training=False)[0]

    compiled_forward = jax.jit(forward)
    return lambda images: np.asarray(compiled_forward(weights, images), np.float32)


def open_model(path: PathLike, batch_size: int) -> Callable[[UInt8Array], Float32Array]:
    """Load a model once, for images that come bit by bit: from images to logits.

    Args, errors: as of :func:`model_logits`.
    """
    if detect_format(path) == "keras":
        from vitsd.hub.saving import load_model

        model, _ = load_model(path)
        return compiled(model)
    classifier = Classifier.load(path, batch_size=batch_size, num_threads=usable_cores())
    return lambda images: pixel_logits(classifier, images)
