"""The contract between training and device: what a model expects and what its answers mean.

A :class:`ModelSpec` is written by the trainer, completed by the exporters, and travels inside every model file as JSON
(see :mod:`vitsd_runtime.formats.spec_io` for where).
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field

import numpy as np

from vitsd_runtime.errors import VitsdError

SCHEMA_VERSION = 1
MAX_JSON_BYTES = 8 * 2**20  # a spec comes out of an untrusted file
MAX_SIDE = 8192  # pixels; larger sizes in a spec are an attack or a mistake
FITS = ("stretch", "crop")
QUANTIZATIONS = ("none", "float16", "dynamic", "int8", "int8-full", "int4")


@dataclass(frozen=True)
class ModelSpec:
    """What a device must know to use a model.

    Raises:
        VitsdError: if a value is missing, of the wrong type, or out of range.
    """

    name: str
    class_names: tuple[str, ...]
    input_size: tuple[int, int, int]
    """Height, width and channels of the training images; photos are brought to this size first."""
    image_size: int
    """Side of the square that the model sees, in pixels."""
    mean: tuple[float, ...]
    """Per channel, in 0-255 pixel units."""
    variance: tuple[float, ...]
    resize_method: str = "bilinear"
    """From ``input_size`` to ``image_size``: bilinear, half-pixel centres, no antialiasing."""
    fit: str = "stretch"
    """How a photo of another size becomes ``input_size``: ``stretch``, or ``crop`` its centre."""
    augmentation: dict = field(default_factory=dict)
    """Ranges used in training: ``{"flip": "horizontal", "rotation": 0.02, "zoom": 0.2}``."""
    architecture: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    """Dataset, epochs, seed, library versions, final metrics."""
    export: dict = field(default_factory=dict)
    """Of exported files: format, quantization, target, preprocessing_embedded, batch_invariant, parity."""
    integrity: dict = field(default_factory=dict)
    """``{"size": bytes, "sha256": hex}`` of the model in the file, without the spec itself."""

    def __post_init__(self):
        try:
            self._normalise()
        except (TypeError, ValueError, OverflowError) as error:
            raise VitsdError(f"The model's spec is unusable: {error}") from error

    def _normalise(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        def check(condition, message):
            if not condition:
                raise ValueError(message)

        check(
            isinstance(self.name, str)
            and re.fullmatch(r"[^\W_][\w.\-]{0,99}", self.name) is not None,
            f"name must be letters, digits, '.', '_' and '-' (it becomes part of file names); got {self.name!r}",
        )
        put("class_names", tuple(self.class_names))
        # Printable, because they end up on terminals and come out of untrusted files.
        check(
            all(isinstance(n, str) and n.isprintable() for n in self.class_names),
            "class_names must be printable strings",
        )
        check(
            len(set(self.class_names)) == len(self.class_names),
            "class_names must differ from each other",
        )
        check(len(self.class_names) >= 2, "at least two class names are needed")
        put("input_size", tuple(int(n) for n in self.input_size))
        put("image_size", int(self.image_size))
        check(len(self.input_size) == 3, "input_size must be (height, width, channels)")
        sides = (*self.input_size[:2], self.image_size)
        check(
            all(1 <= n <= MAX_SIDE for n in sides),
            f"image sides must be 1 to {MAX_SIDE} pixels; got {sides}",
        )
        check(
            self.input_size[2] in (1, 3),
            f"images must have 1 or 3 channels; got {self.input_size[2]}",
        )
        for name in ("mean", "variance"):
            put(name, tuple(float(value) for value in getattr(self, name)))
            check(
                len(getattr(self, name)) == self.input_size[2],
                f"{name} must have one value per channel",
            )
            check(bool(np.isfinite(getattr(self, name)).all()), f"{name} must be finite")
        check(min(self.variance) >= 0, "variance must not be negative")
        check(self.resize_method == "bilinear", f"resize method {self.resize_method!r} is unknown")
        check(self.fit in FITS, f"fit must be one of {', '.join(FITS)}; got {self.fit!r}")
        for name in ("augmentation", "architecture", "provenance", "export", "integrity"):
            check(isinstance(getattr(self, name), dict), f"{name} must be an object")
        for name in ("rotation", "zoom"):
            value = self.augmentation.get(name, 0.0)
            check(
                isinstance(value, (int, float)) and 0 <= value < 1,
                f"augmentation.{name} must be in [0, 1)",
            )
        check(
            self.augmentation.get("flip") in (None, "horizontal"),
            'augmentation.flip must be "horizontal" or absent',
        )
        quantization = self.export.get("quantization", "none")
        check(
            quantization in QUANTIZATIONS,
            f"export.quantization must be one of {', '.join(QUANTIZATIONS)}",
        )
        check(
            isinstance(self.provenance.get("recipe", {}), dict),
            "provenance.recipe must be an object",
        )
        if self.integrity:
            size, sha256 = self.integrity.get("size"), self.integrity.get("sha256")
            check(
                isinstance(size, int) and size >= 0 and isinstance(sha256, str),
                "integrity must give size and sha256",
            )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def preprocessing_embedded(self) -> bool:
        """Whether the model takes uint8 images of ``input_size`` and normalises and resizes them itself."""
        return bool(self.export.get("preprocessing_embedded", False))

    def normalization(self) -> tuple[np.ndarray, np.ndarray]:
        """``(scale, offset)``, float32 per channel: ``pixels * scale + offset == (pixels - mean) / sqrt(variance)``."""
        # The floor of keras.layers.Normalization: a channel that never varies must not divide by zero.
        scale = 1.0 / np.maximum(np.sqrt(np.asarray(self.variance)), 1e-7)
        return scale.astype(np.float32), (-np.asarray(self.mean) * scale).astype(np.float32)

    def replace(self, **changes) -> ModelSpec:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """The inverse of :meth:`to_json`.

        Raises:
            VitsdError: not JSON, not a spec, or written by a newer version than this one reads.
        """
        if len(text) > MAX_JSON_BYTES:
            raise VitsdError(
                f"The model's spec is larger than {MAX_JSON_BYTES} bytes; it is not one that vitsd writes."
            )
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise VitsdError(f"The model's spec is not readable JSON: {error}") from error
        if not isinstance(values, dict) or not isinstance(values.get("schema_version"), int):
            raise VitsdError(
                "The model's spec has no schema_version; it is not one that vitsd writes."
            )
        version = values.pop("schema_version")
        if version > SCHEMA_VERSION:
            raise VitsdError(
                f"The model's spec has schema version {version}, this vitsd-runtime reads up to {SCHEMA_VERSION}: "
                "install a newer vitsd-runtime (pip install --upgrade vitsd-runtime)."
            )
        fields = {f.name for f in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in fields})
        except (TypeError, OverflowError) as error:  # a required field is missing
            raise VitsdError(f"The model's spec is incomplete: {error}") from error
