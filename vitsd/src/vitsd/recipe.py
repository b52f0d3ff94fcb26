"""How a model is trained: one frozen dataclass, and the pair of architecture and recipe that makes a preset."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vitsd.config import VitConfig, is_a
from vitsd_runtime.errors import UsageError

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@dataclass(frozen=True)
class Recipe:
    """Training options. The defaults are the published recipe (preset ``vit-small-ds``); what it lacks is off.

    Raises:
        UsageError: if a value is out of its range.
    """

    epochs: int = 50
    batch_size: int = 256
    learning_rate: float = 1e-3
    """Peak, reached after the warm-up."""
    warmup: float = 0.1
    """Fraction of all steps in which the learning rate rises linearly; then it falls to 0 on a cosine."""
    weight_decay: float = 1e-4
    """AdamW, on the matrices only: not on biases, norms, embeddings or temperatures."""
    clip_norm: float = 0.0
    """Largest global norm of the gradients; 0 = no clipping."""
    validation: float = 0.1
    """Fraction of the training images held out to choose the best epoch, for data without a validation split."""
    flip: bool = True
    """RandomFlip, horizontal."""
    rotation: float = 0.02
    """RandomRotation's factor, a fraction of a full turn."""
    zoom: float = 0.2
    """RandomZoom's factor for height and width."""
    crop_padding: int = 0
    """Random crops after padding each side by this many black pixels."""
    rand_augment: float = 0.0
    """RandAugment's magnitude in [0, 1]; 0 = off."""
    mixup: float = 0.0
    """MixUp's alpha; 0 = off. With both MixUp and CutMix, each batch gets one of them."""
    cutmix: float = 0.0
    """CutMix's alpha, at most 1; 0 = off."""
    label_smoothing: float = 0.0
    ema: float = 0.0
    """Momentum of the exponential moving average of the weights that is evaluated and kept; 0 = off."""
    precision: str = "float32"
    """Of the training computations; the saved model is float32."""
    seed: int = 0

    def __post_init__(self):
        def check(condition, message):
            if not condition:
                raise UsageError(message)

        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check(
                is_a(field.type, value),
                f"{field.name} must be of type {field.type}; got {value!r}.",
            )
        for name in ("epochs", "batch_size"):
            check(
                getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}."
            )
        check(
            0 < self.learning_rate < 10,
            f"learning_rate must be in (0, 10); got {self.learning_rate}.",
        )
        for name in (
            "warmup",
            "rotation",
            "zoom",
            "rand_augment",
            "label_smoothing",
            "ema",
            "validation",
        ):
            check(
                0 <= getattr(self, name) < 1,
                f"{name} must be in [0, 1); got {getattr(self, name)}.",
            )
        for name in ("weight_decay", "clip_norm", "mixup", "cutmix", "crop_padding", "seed"):
            check(
                getattr(self, name) >= 0, f"{name} must not be negative; got {getattr(self, name)}."
            )
        check(self.cutmix <= 1, f"cutmix must be at most 1; got {self.cutmix}.")
        check(
            self.precision in PRECISIONS,
            f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}.",
        )

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Preset:
    """A name for an architecture and the recipe to train it."""

    config: VitConfig
    recipe: Recipe
