"""How a model is trained: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vitsd_runtime.spec import MAX_SIDE
from vitsd_runtime.validation import Option, option, validate

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
CLASS_WEIGHTS = ("none", "balanced")
OPTIMIZERS = ("adamw", "muon")
PRETRAINED_SHARE = Option(
    "share of the pretrained weights in the result, to regain what fine-tuning on harder images "
    "has cost on easy ones",
    float,
    at_least=0,
    below=1,
)


@dataclass(frozen=True)
class TrainingRecipe:
    """Training options; the defaults are the published recipe (preset ``vit-small-ds``).

    Options that the paper does not use default to off.

    Raises:
        UsageError: a value is out of its range.
    """

    epochs: int = option(50, "passes over the training images", at_least=1, at_most=1_000_000)
    batch_size: int = option(256, "images per step", at_least=1, at_most=1_000_000)
    optimizer: str = option(
        "adamw",
        "muon: orthogonal steps for the matrices, AdamW for the rest; more learned per epoch",
        choices=OPTIMIZERS,
    )
    learning_rate: float = option(1e-3, "peak, reached after the warm-up", above=0, below=10)
    warmup_fraction: float = option(
        0.1,
        "fraction of all steps in which the learning rate rises linearly; then it falls to 0 on "
        "a cosine",
        at_least=0,
        below=1,
    )
    weight_decay: float = option(
        1e-4,
        "decoupled, on the matrices only: not on biases, norms, embeddings or temperatures",
        at_least=0,
    )
    global_clipnorm: float = option(
        0.0, "largest global norm of the gradients; 0 = no clipping", at_least=0
    )
    validation_fraction: float = option(
        0.1,
        "fraction of the training images held out to choose the best epoch, for data without a "
        "validation split",
        at_least=0,
        below=1,
    )
    flip: bool = option(True, "RandomFlip, horizontal")
    rotation: float = option(
        0.02, "RandomRotation's factor, a fraction of a full turn", at_least=0, below=1
    )
    zoom: float = option(0.2, "RandomZoom's factor for height and width", at_least=0, below=1)
    crop_padding: int = option(
        0,
        "random crops after padding each side by this many black pixels",
        at_least=0,
        at_most=MAX_SIDE,
    )
    rand_augment: float = option(
        0.0, "RandAugment's magnitude in [0, 1); 0 = off", at_least=0, below=1
    )
    camera: float = option(
        0.0,
        "probability of each thing that cameras do to an image: other brightness, blur, noise, "
        "JPEG; 0 = off",
        at_least=0,
        at_most=1,
    )
    mixup_alpha: float = option(
        0.0,
        "MixUp's alpha; 0 = off. With both MixUp and CutMix, each batch gets one of them",
        at_least=0,
        at_most=100,
    )
    cutmix_alpha: float = option(0.0, "CutMix's alpha; 0 = off", at_least=0, at_most=1)
    label_smoothing: float = option(
        0.0, "probability given to all classes alike", at_least=0, below=1
    )
    teacher: str = option(
        "",
        "a trained or exported model of the same classes, by path or name: its answers become part "
        "of the labels (distillation)",
    )
    teacher_share: float = option(
        0.5, "share of a teacher's answers in the labels", above=0, at_most=1
    )
    class_weights: str = option(
        "none",
        "balanced: all classes count alike, in the loss and in the choice of the best epoch, "
        "however many images each has",
        choices=CLASS_WEIGHTS,
    )
    ema_momentum: float = option(
        0.0,
        "momentum of the exponential moving average of the weights that is evaluated and kept; "
        "0 = off",
        at_least=0,
        below=1,
    )
    precision: str = option(
        "float32",
        "of the training computations (a Keras dtype policy); the saved model is float32",
        choices=PRECISIONS,
    )
    coverage: float = option(
        0.95,
        "fraction of the validation images whose largest probability reaches the threshold below "
        "which the model does not know what an image shows",
        above=0,
        at_most=1,
    )
    seed: int = option(0, "of everything random", at_least=0, at_most=2**32 - 1)

    def __post_init__(self) -> None:
        """Check each option."""
        validate(self)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serializable dict."""
        return dataclasses.asdict(self)
