"""Does this machine answer as the one that exported a model did?

Exported files carry golden images, and what became of them on the exporting machine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.decoding import need_pillow
from vitsd_runtime.images.loading import load_for_model, load_image
from vitsd_runtime.spec import Golden
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import AnyArray, Float32Array, UInt8Array

STAGES = ("pixels", "tensor", "logits", "labels")
_TENSOR_VALUES = 64
_TENSOR_STEP = 7919
"""A prime above every side: the places lie all over the image, and in every channel."""
_TENSOR_TOLERANCE = 1e-4
_MAX_COLUMNS = 100
_COARSE_SIDE = 32
_PHOTO_PIXELS = 1_000_000
"""More than it ever has; what is no golden image is not to be decoded."""
_PHOTO_MEAN, _PHOTO_MAX = 1.0, 16.0
"""Differences in 0-255 units: JPEG decoders may round differently."""


@dataclass(frozen=True)
class Stage:
    """One step from an image to its label."""

    name: str
    """One of :data:`STAGES`."""
    passed: bool
    detail: str
    """What was compared, and how far it was off; one line, safe to show."""


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found."""

    stages: tuple[Stage, ...]
    """In the order of :data:`STAGES`; those behind one that could not be done are missing."""

    @property
    def passed(self) -> bool:
        """Whether this machine answers as the exporting one did."""
        return self.failed is None

    @property
    def failed(self) -> str | None:
        """The name of the first stage that failed; None if all passed."""
        return next((stage.name for stage in self.stages if not stage.passed), None)

    @property
    def problem(self) -> str | None:
        """The first stage that failed, and how; None if all passed."""
        return next((f"{s.name}: {s.detail}" for s in self.stages if not s.passed), None)


def verify(classifier: Classifier) -> Verification:
    """Compare what this machine makes of a model's golden images with what its exporter made.

    The first stage that fails is where to look: what follows works with its results.

    Args:
        classifier: the model, as it is used here.

    Raises:
        UsageError: the model carries no golden images.
        VitsdError: Pillow is missing.
    """
    golden = classifier.spec.golden
    if golden is None:
        raise UsageError(
            f"{printable(classifier.path)} carries no golden images to verify it with, as files "
            "of earlier versions: export it again."
        )
    need_pillow()  # without it this machine can't tell, which is no other answer
    check = _Check(classifier, golden)
    stages: list[Stage] = []
    for name in STAGES:
        try:
            passed, detail = getattr(check, name)()
        except VitsdError as error:
            stages.append(Stage(name, False, str(error)))
            break
        stages.append(Stage(name, passed, detail))
    return Verification(tuple(stages))


def digest_pixels(pixels: UInt8Array) -> str:
    """SHA-256 of ``pixels_sha256`` in a spec."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def digest_names(names: Sequence[str]) -> str:
    """SHA-256 of ``class_names_sha256`` in a spec: of ``json.dumps(names)``."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def coarse(pixels: UInt8Array) -> UInt8Array:
    """Every n-th pixel of ``(height, width, channels)``: at most 32 of a side."""
    height, width = (-(-side // _COARSE_SIDE) for side in pixels.shape[:2])
    return pixels[::height, ::width]


def sample(prepared: AnyArray) -> Float32Array:
    """64 values of each preprocessed image, float32 ``(n, 64)``: those at ``i * 7919 % values``."""
    flat = prepared.reshape(len(prepared), -1)
    places = np.arange(_TENSOR_VALUES) * _TENSOR_STEP % flat.shape[1]
    return flat[:, places].astype(np.float32)


def columns(num_classes: int) -> slice:
    """Of which classes logits are kept: every n-th, at most 100."""
    return slice(None, None, -(-num_classes // _MAX_COLUMNS))


def encode(array: AnyArray) -> str:
    """Base64 of an array as float32, little-endian."""
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


class _Check:
    """The stages, in order: each works with what the one before has left."""

    def __init__(self, classifier: Classifier, golden: Golden) -> None:
        self._classifier, self._spec, self._golden = classifier, classifier.spec, golden

    def pixels(self) -> tuple[bool, str]:
        """Decode the images, and bring the photo to the model's input size."""
        size, golden = self._spec.input_size, self._golden
        images = [
            load_image(_bytes(text), size, max_pixels=size[0] * size[1]) for text in golden.images
        ]
        self._pixels = np.stack(images)
        photo = load_for_model(_bytes(golden.photo), self._spec, max_pixels=_PHOTO_PIXELS)
        small = coarse(photo)
        height, width, channels = small.shape
        expected = load_image(
            _bytes(golden.photo_pixels), (height, width, channels), max_pixels=height * width
        )
        difference = np.abs(small.astype(np.int16) - expected)
        same = digest_pixels(self._pixels) == golden.pixels_sha256
        mean, largest = difference.mean(), difference.max()
        return (
            bool(same and mean <= _PHOTO_MEAN and largest <= _PHOTO_MAX),
            f"{'all' if same else 'NOT all'} {len(images)} images equal; a resized photo off by "
            f"{mean:.2g} on average, {largest} at most (of 255; allowed: {_PHOTO_MEAN:g}, "
            f"{_PHOTO_MAX:g})",
        )

    def tensor(self) -> tuple[bool, str]:
        """Normalize and resize to what the transformer sees."""
        self._prepared = self._classifier.prepare(self._pixels)
        actual = sample(self._prepared)
        expected = _array(self._golden.tensor, actual.shape)
        with np.errstate(invalid="ignore"):  # damaged data may hold infinities
            difference = np.abs(actual - expected) / np.maximum(1, np.abs(expected))
        largest = difference.max()
        within = bool(largest <= _TENSOR_TOLERANCE)
        return within, f"off by {largest:.2g} at most (allowed: {_TENSOR_TOLERANCE:g})"

    def logits(self) -> tuple[bool, str]:
        """Run the engine."""
        self._logits = self._classifier.forward(self._prepared)
        actual, tolerance = self._logits[:, columns(self._spec.num_classes)], self._golden.tolerance
        own, reference = (
            np.abs(actual - _array(text, actual.shape)).max()
            for text in (self._golden.logits, self._golden.reference)
        )
        return (
            bool(own <= tolerance),
            f"off by {own:.2g} at most (allowed: {tolerance:.2g}); from the trained model's by "
            f"{reference:.2g}",
        )

    def labels(self) -> tuple[bool, str]:
        """Name the most probable classes."""
        names, golden = self._spec.class_names, self._golden
        if digest_names(names) != golden.class_names_sha256:
            return False, "the class names, or their order, are not those of the trained model"
        # Where two classes are as probable as each other, rounding decides.
        wrong = [
            f"{printable(names[int(row.argmax())], 40)} instead of {printable(label, 40)}"
            for label, row in zip(golden.labels, self._logits)
            if label not in names or row.max() - row[names.index(label)] > 2 * golden.tolerance
        ]
        shown = ", ".join(printable(label, 40) for label in golden.labels)
        return not wrong, "; ".join(wrong) or f"all as expected: {shown}"


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # characters that are not ASCII
        raise VitsdError("The golden data are damaged: no base64.") from error


def _array(text: str, shape: tuple[int, ...]) -> Float32Array:
    content = _bytes(text)
    if len(content) != 4 * math.prod(shape):
        raise VitsdError(f"The golden data are damaged: {len(content)} bytes for {shape} values.")
    return np.frombuffer(content, "<f4").astype(np.float32).reshape(shape)
