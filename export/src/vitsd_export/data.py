"""Calibration, validation and test images for an export."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitsd.data.dataset import Dataset, distort
from vitsd.evaluation.confidence import FEWEST_IMAGES as FEWEST_TO_FIT
from vitsd.evaluation.evaluate import labeled_images, trained_on, warn_of_values
from vitsd.evaluation.predict import predict_logits
from vitsd_export.options import FEWEST_IMAGES, ExportOptions
from vitsd_export.quantization.schemes import SCHEMES
from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import AnyArray, Float32Array, UInt8Array

HELD_OUT_IMAGES = 2000
PARITY_IMAGES = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParityData:
    """Test images and reference logits for the parity gate."""

    name: str
    """Of the dataset."""
    images: UInt8Array
    """``(n, *input_size)``."""
    labels: AnyArray
    """``(n,)``, indices of the model's classes."""
    reference: Float32Array
    """``(n, classes)``, the Keras model's logits."""
    trained_on: int | None = None
    """How many of the images the model was trained on; None if it does not say."""

    @classmethod
    def load(cls, model: Any, spec: ModelSpec, dataset: Dataset) -> ParityData:
        """At most :data:`PARITY_IMAGES` test images.

        Raises:
            UsageError: the dataset has classes that the model does not know.
        """
        test = labeled_images(dataset, spec, "test", PARITY_IMAGES)
        warn_of_values(dataset.name, test, spec)
        overlap = trained_on(test, spec, "test")
        logits = predict_logits(model, test.images)
        known = overlap.images if overlap else None
        return cls(dataset.name, test.images[:], test.labels, logits, known)


@dataclass(frozen=True)
class HeldOutData:
    """Images that quantization is decided on.

    Neither trained nor tested on, but for ``calibration``.
    """

    calibration: UInt8Array
    """Training images ``(n, *input_size)``: ranges of activations."""
    images: UInt8Array
    """Held-out images ``(m, *input_size)``: the budget."""
    labels: AnyArray
    """``(m,)``."""
    reference: Float32Array
    """``(m, classes)``, the Keras model's logits for ``images``."""


@dataclass(frozen=True)
class ValidationData:
    """Images that the model was not trained on and that its best epoch was chosen by."""

    name: str
    """Of the dataset."""
    images: UInt8Array
    """``(n, *input_size)``; none where there is no such split."""
    labels: AnyArray
    """``(n,)``, indices of the model's classes."""
    trained_on: int = 0
    """How many of the images the model was trained on after all, as far as it says so."""

    @classmethod
    def load(cls, spec: ModelSpec, dataset: Dataset) -> ValidationData:
        """At most :data:`HELD_OUT_IMAGES` validation images."""
        try:
            val = labeled_images(dataset, spec, "val", HELD_OUT_IMAGES)
        except UsageError:  # trained without a validation split
            nothing = np.zeros((0, *spec.input_size), np.uint8)
            return cls(dataset.name, nothing, np.zeros(0, np.int64))
        overlap = trained_on(val, spec, "validation")
        known = overlap.images if overlap else 0
        return cls(dataset.name, val.images[:], val.labels, known)

    @property
    def unfit(self) -> str | None:
        """Why no confidence can be fitted on them; None if it can."""
        count = len(self.labels)
        if count < FEWEST_TO_FIT:
            return (
                f"{printable(self.name)} has {count} validation images, fewer than {FEWEST_TO_FIT}"
            )
        if distort(self.trained_on, count):
            return f"The model was trained on {self.trained_on} of {count} validation images"
        return None


def load_held_out(
    model: Any,
    spec: ModelSpec,
    dataset: Dataset,
    validation: ValidationData,
    options: ExportOptions,
) -> HeldOutData | None:
    """What the searched quantizations need; None if there are none, or too few images for them.

    Args:
        model: the Keras model.
        spec: its spec.
        dataset: labeled images.
        validation: of this dataset.
        options: what is exported.

    Raises:
        UsageError: there are too few images, and a quantization can't do without.
    """
    if not options.searched:
        return None
    calibration = labeled_images(dataset, spec, "train", options.calibration_images)
    if shortage := _shortage(dataset.name, calibration.labels, validation.labels):
        if any(SCHEMES[quantization].needs_calibration for quantization in options.searched):
            raise UsageError(
                f"{shortage}: too few to quantize on. Give more with `data`, train with a larger "
                "validation fraction, or use `quantization=dynamic`."
            )
        _log.info("%s, so no budget can be checked: all layers become dynamic.", shortage)
        return None
    reference = predict_logits(model, validation.images)
    return HeldOutData(calibration.images[:], validation.images, validation.labels, reference)


def _shortage(name: str, calibration: AnyArray, validation: AnyArray) -> str | None:
    for split, labels in (("training", calibration), ("validation", validation)):
        if len(labels) < FEWEST_IMAGES:
            return f"{printable(name)} has {len(labels)} {split} images, fewer than {FEWEST_IMAGES}"
    return None
