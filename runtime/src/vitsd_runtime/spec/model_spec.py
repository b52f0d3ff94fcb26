"""A model's spec: one frozen dataclass, written by the trainer, completed by the exporters.

It travels inside every model file as JSON (:mod:`vitsd_runtime.formats` says where).
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.spec.architecture import SCHEMAS, Architecture
from vitsd_runtime.spec.limits import MAX_CLASSES, MAX_JSON_BYTES, MAX_SIDE
from vitsd_runtime.spec.sections import (
    AugmentationRanges,
    Confidence,
    ExportInfo,
    Golden,
    Integrity,
    Provenance,
    from_dict,
    to_dict,
)
from vitsd_runtime.system.json_files import parse_json
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import RESIZE_MODES, Float32Array, ResizeMode, ValueRange
from vitsd_runtime.validation import REDUCING_GAP, check_value_range

SCHEMA_VERSION = 6
_SCHEMAS = {"reducing_gap": 4, "value_range": 3, **SCHEMAS}
"""The first with an entry. Older ones are written where they suffice; runtimes that would pass over
the entry without a word must refuse."""
_OLDEST_SCHEMA = 2
_SECTIONS = {
    "augmentation": AugmentationRanges,
    "provenance": Provenance,
    "export": ExportInfo,
    "confidence": Confidence,
    "golden": Golden,
    "integrity": Integrity,
}
_OPTIONAL_SECTIONS = ("export", "confidence", "golden", "integrity")


@dataclass(frozen=True)
class ModelSpec:
    """What a device must know to use a model.

    Raises:
        VitsdError: a value is missing, of the wrong type, or out of range.
    """

    name: str
    """Letters, digits, ``.``, ``_`` and ``-``; it becomes part of file names."""
    class_names: tuple[str, ...]
    """In the order of the model's outputs; at least two, all different."""
    input_size: tuple[int, int, int]
    """Height, width and channels of the training images; photos are brought to this size first."""
    image_size: int
    """Side of the square that the transformer sees, in pixels."""
    mean: tuple[float, ...]
    """Per channel, in 0-255 pixel units."""
    variance: tuple[float, ...]
    """Per channel, in squared 0-255 pixel units."""
    interpolation: str = "bilinear"
    """From ``input_size`` to ``image_size``: bilinear, half-pixel centers, no antialiasing."""
    resize_mode: ResizeMode = "stretch"
    """How a photo of another size becomes ``input_size``."""
    value_range: ValueRange | None = None
    """The pixel values that become 0 and 255; None: 0-255, or 0-65535 in images of 16 bits."""
    reducing_gap: float | None = None
    """JPEGs are decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 that leaves their shorter
    side at least this many times the longer one of ``input_size``; None: in full. As Pillow calls
    what its ``Image.thumbnail`` does, where it is 2."""
    augmentation: AugmentationRanges = field(default_factory=AugmentationRanges)
    architecture: Architecture | None = None
    """None for models that vitsd did not train."""
    provenance: Provenance = field(default_factory=Provenance)
    export: ExportInfo | None = None
    """None for trained models."""
    confidence: Confidence | None = None
    """None for models of earlier versions, whose probabilities are those of the plain softmax."""
    golden: Golden | None = None
    """None for trained models, and in files of earlier versions."""
    integrity: Integrity | None = None
    """None until the spec is written into a file."""

    def __post_init__(self) -> None:
        """Bring values to their types and check them."""
        try:
            self._check_names()
            self._check_sizes()
            self._check_statistics()
            self._check_sections()
        except (TypeError, ValueError, OverflowError) as error:
            raise VitsdError(f"The model's spec is unusable: {printable(error)}") from error

    def _check_names(self) -> None:
        good = isinstance(self.name, str) and bool(re.fullmatch(r"[^\W_][\w.\-]{0,99}", self.name))
        _check(
            good,
            "name must be letters, digits, '.', '_' and '-' (it becomes part of file names); "
            f"got {self.name!r}",
        )
        _check(_is_list(self.class_names), "class_names must be a list")
        names = tuple(self.class_names)
        # Printable, because they end up on terminals and come out of untrusted files.
        good = all(isinstance(name, str) and name.isprintable() for name in names)
        _check(good, "class_names must be printable strings")
        _check(len(set(names)) == len(names), "class_names must differ from each other")
        _check(2 <= len(names) <= MAX_CLASSES, f"there must be 2 to {MAX_CLASSES:,} class names")
        self._set("class_names", names)

    def _check_sizes(self) -> None:
        sizes = self.input_size
        good = _is_list(sizes) and all(_is_whole(n) for n in (*sizes, self.image_size))
        _check(good, "input_size must be a list of whole numbers, and image_size such a number")
        self._set("input_size", tuple(int(n) for n in self.input_size))
        self._set("image_size", int(self.image_size))
        _check(len(self.input_size) == 3, "input_size must be (height, width, channels)")
        sides = (*self.input_size[:2], self.image_size)
        good = all(1 <= side <= MAX_SIDE for side in sides)
        _check(good, f"image sides must be 1 to {MAX_SIDE} pixels; got {sides}")
        channels = self.input_size[2]
        _check(channels in (1, 3), f"images must have 1 or 3 channels; got {channels}")
        _check(self.interpolation == "bilinear", f"interpolation {self.interpolation!r} is unknown")
        modes = ", ".join(RESIZE_MODES)
        _check(
            self.resize_mode in RESIZE_MODES,
            f"resize_mode must be one of {modes}; got {self.resize_mode!r}",
        )

    def _check_statistics(self) -> None:
        for name in ("mean", "variance"):
            _check(_is_list(getattr(self, name)), f"{name} must be a list of numbers")
            values = tuple(float(value) for value in getattr(self, name))
            self._set(name, values)
            _check(len(values) == self.input_size[2], f"{name} must have one value per channel")
            _check(bool(np.isfinite(values).all()), f"{name} must be finite")
        _check(min(self.variance) >= 0, "variance must not be negative")
        if self.value_range is not None:
            self._set("value_range", check_value_range(self.value_range))
        if self.reducing_gap is not None:
            self._set("reducing_gap", REDUCING_GAP.check("reducing_gap", self.reducing_gap))

    def _check_sections(self) -> None:
        for name, cls in _SECTIONS.items():
            value = getattr(self, name)
            missing = value is None and name in _OPTIONAL_SECTIONS
            if not (missing or isinstance(value, cls)):
                self._set(name, from_dict(cls, value, name))
        if self.architecture is not None and type(self.architecture) is not Architecture:
            self._set("architecture", Architecture.of(self.architecture))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def temperature(self) -> float:
        """What logits are divided by before the softmax."""
        return self.confidence.temperature if self.confidence else 1.0

    @property
    def threshold(self) -> float:
        """Of the largest probability: an image with a lower one is none that the model knows."""
        return self.confidence.threshold if self.confidence else 0.0

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def preprocessing_embedded(self) -> bool:
        """Whether the model takes uint8 images and normalizes and resizes them itself."""
        return self.export is not None and self.export.preprocessing_embedded

    def normalization(self) -> tuple[Float32Array, Float32Array]:
        """Scale and offset per channel, float32 ``(channels,)`` each.

        ``pixels * scale + offset == (pixels - mean) / sqrt(variance)``.
        """
        # The floor of keras.layers.Normalization: a channel that never varies must not divide by 0.
        scale = 1.0 / np.maximum(np.sqrt(np.asarray(self.variance)), 1e-7)
        offset = -np.asarray(self.mean) * scale
        return scale.astype(np.float32), offset.astype(np.float32)

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serializable object with its ``schema_version``; absent sections are left out."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["architecture"] = self.architecture.to_dict() if self.architecture else {}
        for name in _SECTIONS:
            if values[name] is not None:
                values[name] = to_dict(values[name])
        present = {k: v for k, v in values.items() if v is not None and v != {}}
        entries = (*present, *values["architecture"])
        version = max(_SCHEMAS.get(name, _OLDEST_SCHEMA) for name in entries)
        return {"schema_version": version, **present}

    def to_json(self) -> str:
        """JSON text; the inverse of :meth:`from_json`."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """Read a spec of any schema version up to :data:`SCHEMA_VERSION`.

        Raises:
            VitsdError: not JSON, not a spec, or written by a newer version than this one reads.
        """
        try:
            values = parse_json(text, MAX_JSON_BYTES)
        except ValueError as error:
            raise VitsdError(f"The model's spec is not readable JSON: {error}.") from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Any) -> ModelSpec:
        """The inverse of :meth:`to_dict`; reads specs as :meth:`from_json` does.

        Raises:
            VitsdError: as for :meth:`from_json`.
        """
        values = _checked_version(values)
        version = values.pop("schema_version")
        if version > SCHEMA_VERSION:
            raise VitsdError(
                f"The model's spec has schema version {version}, this vitsd-runtime reads up to "
                f"{SCHEMA_VERSION}: install a newer vitsd-runtime "
                "(pip install --upgrade vitsd-runtime)."
            )
        try:
            if version == 1:
                from vitsd_runtime.spec import schema1

                values = schema1.upgrade(values)
            fields = {f.name for f in dataclasses.fields(cls)}
            return cls(**{name: value for name, value in values.items() if name in fields})
        except (TypeError, ValueError, OverflowError) as error:  # a required field is missing
            raise VitsdError(f"The model's spec is unusable: {printable(error)}") from error


def _checked_version(values: Any) -> dict[str, Any]:
    version = values.get("schema_version") if isinstance(values, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise VitsdError("The model's spec has no schema_version; it is not one that vitsd writes.")
    return dict(values)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
