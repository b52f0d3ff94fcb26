"""The typed sections of a spec. Every one is checked when it is made: specs come out of files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypeVar, cast

from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec.limits import (
    MAX_FINGERPRINT_HASHES,
    MAX_GOLDEN_IMAGES,
    MAX_GOLDEN_TEXT,
    MAX_MODEL_BYTES,
)
from vitsd_runtime.types import (
    FORMATS,
    QUANTIZATIONS,
    SPLIT_RULES,
    Format,
    Quantization,
    SplitRule,
)

_T = TypeVar("_T")
_SHA256 = "[0-9a-f]{64}"


@dataclass(frozen=True)
class AugmentationRanges:
    """Random flip, rotation and zoom used in training; also the draws of test-time augmentation."""

    flip: str | None = None
    """``horizontal`` or None."""
    rotation: float = 0.0
    """Largest angle as a fraction of a full turn, in [0, 1)."""
    zoom: float = 0.0
    """Largest zoom for height and width, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self.flip in (None, "horizontal"), 'augmentation.flip must be "horizontal" or null')
        for name in ("rotation", "zoom"):
            value = getattr(self, name)
            _check(_is_number(value) and 0 <= value < 1, f"augmentation.{name} must be in [0, 1)")


@dataclass(frozen=True)
class Integrity:
    """Size and SHA-256 of the model in the file, and of the spec itself.

    They prove damage, not origin: whoever changes a model can write new ones. Each SHA-256 is
    64 hexadecimal digits in lower case.
    """

    size: int
    """Bytes of the model: all of the file in front of the spec, ``saved_model.pb``, or the weights
    in a ``.keras`` file."""
    sha256: str
    """Of these bytes."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by path of all other files of a SavedModel, and of the other members of a ``.keras``
    file. Empty in older files."""
    spec_sha256: str | None = None
    """Of the spec's JSON as it stands in the file, with zeros in place of these digits.
    None in older files."""

    def __post_init__(self) -> None:
        """Check size and digests."""
        _check(
            _is_int(self.size) and 1 <= self.size <= MAX_MODEL_BYTES,
            f"integrity.size must be 1 to {MAX_MODEL_BYTES:,} bytes",
        )
        _check(isinstance(self.files, Mapping), "integrity.files must be an object")
        digests = [self.sha256, *self.files.values()]
        digests += [] if self.spec_sha256 is None else [self.spec_sha256]
        good = all(isinstance(text, str) and re.fullmatch(_SHA256, text) for text in digests)
        _check(good, "every SHA-256 in integrity must be 64 hexadecimal digits")


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from. Everything is optional; fractions are in 0..1."""

    dataset: str | None = None
    """The dataset's name."""
    source: str | None = None
    """Where the dataset was read from, on the training machine; exported files leave it out."""
    preset: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options given to ``vitsd-train``; exported files leave them out."""
    images: Mapping[str, int] = field(default_factory=dict)
    """Number of images by split: train, val, test."""
    split_rule: SplitRule | None = None
    """Of the validation and test images that the data did not name. Absent: ``position``."""
    trained_on: str | None = None
    """The smallest hashes of the training images: 48 bits each, big-endian, in base64."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The training recipe, as ``vitsd.TrainingRecipe.to_dict`` gives it."""
    epoch: int | None = None
    """The epoch whose weights these are, from 1."""
    validation_top1: float | None = None
    test_top1: float | None = None
    test_top5: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that trained it."""
    machine: str | None = None
    fine_tuned_from: Mapping[str, Any] = field(default_factory=dict)
    """Name, sha256, freeze_backbone and share of the model that training started from."""
    imported_from: str | None = None
    format: str | None = None
    """Of the file that it was imported from."""

    def __post_init__(self) -> None:
        """Check the types."""
        texts = ("dataset", "source", "preset", "machine", "imported_from", "format")
        for name in texts:
            _check_optional(self, name, str)
        for name in ("options", "images", "recipe", "versions", "fine_tuned_from"):
            _check(isinstance(getattr(self, name), Mapping), f"provenance.{name} must be an object")
        _check_optional(self, "epoch", int)
        for name in ("validation_top1", "test_top1", "test_top5"):
            value = getattr(self, name)
            _check(value is None or _is_number(value), f"provenance.{name} must be a number")
        _check(self.split_rule in (None, *SPLIT_RULES), "provenance.split_rule is unknown")
        self._check_fingerprint()

    def _check_fingerprint(self) -> None:
        _check_optional(self, "trained_on", str)
        hashes = rf"([A-Za-z0-9+/]{{8}}){{0,{MAX_FINGERPRINT_HASHES}}}"
        good = re.fullmatch(hashes, self.trained_on or "")
        _check(bool(good), "provenance.trained_on must be hashes of 48 bits in base64")

    def portable(self) -> Provenance:
        """Without what is true on the training machine only."""
        recipe = dict(self.recipe)
        if isinstance(teacher := recipe.get("teacher"), str):
            recipe["teacher"] = PurePath(teacher).name
        return dataclasses.replace(self, source=None, options={}, recipe=recipe)


@dataclass(frozen=True)
class Confidence:
    """How sure the answers are, measured on images that the model was not trained on."""

    temperature: float
    """Logits are divided by it before the softmax, so that of the answers with a probability of
    80 %, 80 % are right."""
    threshold: float
    """An image whose largest probability is lower is none that the model knows; in [0, 1)."""
    coverage: float | None = None
    """Fraction of the images whose largest probability reaches the threshold, in (0, 1]."""
    images: int | None = None
    """How many images it was measured on."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        good = _is_number(self.temperature) and 1e-3 <= self.temperature <= 1e3
        _check(good, "confidence.temperature must be 0.001 to 1000")
        good = _is_number(self.threshold) and 0 <= self.threshold < 1
        _check(good, "confidence.threshold must be in [0, 1)")
        good = self.coverage is None or (_is_number(self.coverage) and 0 < self.coverage <= 1)
        _check(good, "confidence.coverage must be in (0, 1]")
        good = self.images is None or (_is_int(self.images) and self.images >= 1)
        _check(good, "confidence.images must be a number of images")


@dataclass(frozen=True)
class Golden:
    """Images and what the exporting machine made of them, for :mod:`vitsd_runtime.verification`.

    Binary values are in base64, which is decoded only there; arrays are float32, little-endian.
    """

    images: tuple[str, ...]
    """PNGs of the model's input size."""
    pixels_sha256: str
    """Of the pixels of all of them, uint8 ``(images, *input_size)``."""
    photo: str
    """A JPEG of another size and shape, which lies on its side (EXIF)."""
    photo_pixels: str
    """A PNG of what it becomes: every n-th pixel, see
    :func:`vitsd_runtime.verification.coarse`."""
    tensor: str
    """Values of each preprocessed image, see :func:`vitsd_runtime.verification.sample`."""
    logits: str
    """Of each image, by this very file, of every n-th class: see
    :func:`vitsd_runtime.verification.columns`."""
    reference: str
    """The same, by the trained model."""
    tolerance: float
    """By which a logit may differ on other machines."""
    labels: tuple[str, ...]
    """Of each image, by this very file."""
    class_names_sha256: str
    """Of the trained model's class names, see
    :func:`vitsd_runtime.verification.digest_names`."""

    def __post_init__(self) -> None:
        """Check types and sizes."""
        for name in ("images", "labels"):
            value = getattr(self, name)
            _check(isinstance(value, (list, tuple)), f"golden.{name} must be a list")
            object.__setattr__(self, name, tuple(value))
        good = len(self.images) == len(self.labels) and 1 <= len(self.images) <= MAX_GOLDEN_IMAGES
        _check(good, f"golden must hold 1 to {MAX_GOLDEN_IMAGES} images, each with a label")
        others = ("images", "labels", "tolerance")
        texts = [value for name, value in vars(self).items() if name not in others]
        texts += [*self.images, *self.labels]
        good = all(isinstance(text, str) and len(text) <= MAX_GOLDEN_TEXT for text in texts)
        _check(good, f"golden must hold texts of at most {MAX_GOLDEN_TEXT:,} characters")
        good = _is_number(self.tolerance) and 0 < self.tolerance <= 1e6
        _check(good, "golden.tolerance must be a number above 0, at most 1000000")


@dataclass(frozen=True)
class ParityFigures:
    """How an exported file's answers compared with the trained model's, on the same images."""

    data: str
    """Name of the dataset."""
    images: int
    top1: float
    top5: float
    agreement: float
    """Fraction of images with the same top-1 class."""
    max_difference: float | None
    """Largest difference of a logit; None if one was NaN or infinite."""
    mean_difference: float | None
    relative_difference: float | None
    """``max_difference`` in standard deviations of the reference's logits."""
    top1_change: tuple[float, float, float]
    """Top-1 minus the reference's, with its 95 % interval (paired)."""
    failures: tuple[str, ...]
    """What was beyond the tolerance."""
    trained_on: int | None = None
    """How many of the images the model was trained on, which flatters it; None if not known."""
    balanced_accuracy: float | None = None
    """Mean of the classes' recalls; None in files of earlier versions."""
    balanced_change: float | None = None
    """Balanced accuracy minus the reference's."""
    lost_recall: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Recall and the reference's, of the classes that lost most (at most five)."""

    def __post_init__(self) -> None:
        """Check the types."""
        for name in ("top1_change", "failures"):
            value = getattr(self, name)
            _check(isinstance(value, (list, tuple)), f"parity.{name} must be a list")
            object.__setattr__(self, name, tuple(value))
        numbers = (self.images, self.top1, self.top5, self.agreement, *self.top1_change)
        _check(all(map(_is_number, numbers)), "parity must hold numbers")
        _check(all(isinstance(text, str) for text in self.failures), "parity.failures must be text")
        _check_optional(self, "trained_on", int)
        for name in ("balanced_accuracy", "balanced_change"):
            value = getattr(self, name)
            _check(value is None or _is_number(value), f"parity.{name} must be a number")
        _check(isinstance(self.lost_recall, Mapping), "parity.lost_recall must be an object")

    @property
    def passed(self) -> bool:
        """Whether the file was within the tolerance."""
        return not self.failures


@dataclass(frozen=True)
class MicroFigures:
    """A file in the interpreter of microcontrollers, on the exporting machine."""

    interpreter: str
    """Name and version."""
    arena: int
    """Bytes of memory that it needs, measured where pointers have 64 bits: with 32, it is less."""
    images: int
    steps: int
    """Largest difference of a logit from LiteRT's, in quantization steps."""
    agreement: float
    """Fraction of the images with LiteRT's top-1 class."""

    def __post_init__(self) -> None:
        """Check the types."""
        _check(_is_number(self.agreement), "micro.agreement must be a number")
        _check(isinstance(self.interpreter, str), "micro.interpreter must be text")
        _check_counts(self, "micro", "arena", "images", "steps")


@dataclass(frozen=True)
class NpuFigures:
    """What a compiler for an NPU made of a file; all but the operators are its estimates."""

    compiler: str
    """Name and version."""
    accelerator: str
    npu_operators: int
    cpu_operators: int
    sram: int
    """Bytes."""
    off_chip: int
    """Bytes of flash, or of DRAM where the weights lie there."""
    cycles: int
    milliseconds: float

    def __post_init__(self) -> None:
        """Check the types."""
        good = isinstance(self.compiler, str) and isinstance(self.accelerator, str)
        _check(good, "npu.compiler and npu.accelerator must be text")
        _check_counts(self, "npu", "npu_operators", "cpu_operators", "sram", "off_chip", "cycles")
        _check(_is_number(self.milliseconds), "npu.milliseconds must be a number")


@dataclass(frozen=True)
class ExportInfo:
    """How a file was exported, and what the parity gate measured."""

    format: Format | None = None
    """None for models that vitsd did not export."""
    quantization: Quantization = "none"
    target: str = ""
    """The runtime that the file was made for, e.g. ``litert`` or ``onnxruntime``."""
    preprocessing_embedded: bool = False
    """The model takes uint8 images of ``input_size``, and normalizes and resizes them itself."""
    batch_invariant: bool = True
    """Whether an image's answer is independent of the other images in its batch."""
    opset: int | None = None
    """Of ONNX."""
    operations: Mapping[str, int] = field(default_factory=dict)
    """Operations of a ``.tflite`` file and the newest version of each."""
    calibration_images: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The quantization recipe, as ``vitsd_export`` replays it."""
    parity: ParityFigures | None = None
    micro: MicroFigures | None = None
    """Of files made for microcontrollers."""
    npu: NpuFigures | None = None
    """Of files made for an NPU, where its compiler was installed."""

    def __post_init__(self) -> None:
        """Check the types."""
        for name, known in (("format", (None, *FORMATS)), ("quantization", QUANTIZATIONS)):
            good = getattr(self, name) in known
            _check(good, f"export.{name} must be one of {', '.join(map(str, known))}")
        _check(isinstance(self.target, str), "export.target must be text")
        for name in ("preprocessing_embedded", "batch_invariant"):
            _check(isinstance(getattr(self, name), bool), f"export.{name} must be true or false")
        for name in ("opset", "calibration_images"):
            _check_optional(self, name, int)
        for name in ("operations", "recipe"):
            _check(isinstance(getattr(self, name), Mapping), f"export.{name} must be an object")
        parts = {"parity": ParityFigures, "micro": MicroFigures, "npu": NpuFigures}
        for name, section in parts.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, section):
                object.__setattr__(self, name, from_dict(section, value, name))


def from_dict(cls: type[_T], values: Any, name: str) -> _T:
    """A section from JSON; entries that a newer minor version may have added are passed over.

    Raises:
        UsageError: not an object, an entry is missing or ill-typed.
    """
    _check(isinstance(values, Mapping), f"{name} must be an object")
    fields = {f.name for f in dataclasses.fields(cast(Any, cls))}
    # Elsewhere a flipped bit in a name is noticed by the SHA-256 that stands here.
    unknown = sorted(values.keys() - fields) if cls is Integrity else []
    _check(not unknown, f"{name} has an entry that can't be checked: {', '.join(unknown)}")
    try:
        return cls(**{key: value for key, value in values.items() if key in fields})
    except TypeError as error:  # a required entry is missing
        raise UsageError(f"{name} is incomplete: {error}") from error


def to_dict(section: Any) -> dict[str, Any]:
    """The inverse of :func:`from_dict`; what is None or empty is left out."""
    values = dataclasses.asdict(section)
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _check_optional(section: Any, name: str, kind: type) -> None:
    value = getattr(section, name)
    good = value is None or (_is_int(value) if kind is int else isinstance(value, kind))
    _check(good, f"{type(section).__name__}.{name} must be of type {kind.__name__}")


def _check_counts(section: Any, name: str, *counts: str) -> None:
    good = all(
        _is_int(getattr(section, count)) and getattr(section, count) >= 0 for count in counts
    )
    _check(good, f"{name} must hold whole numbers for {', '.join(counts)}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
