"""What a model is made of: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise

from vitsd_runtime.errors import UsageError

POOLINGS = ("flatten", "gap")
ACTIVATIONS = ("gelu", "relu")


@dataclass(frozen=True)
class VitConfig:
    """Architecture of a ViT for small datasets. The defaults are the published recipe (preset ``vit-small-ds``).

    ``input_size`` and ``num_classes`` usually come from the dataset (see :meth:`for_data`).

    Raises:
        UsageError: if the values can't make a model; the message names the option and what it must be.
    """

    input_size: tuple[int, int, int] = (32, 32, 3)
    """Height, width and channels of the images in the dataset, in pixels."""
    num_classes: int = 100
    image_size: int = 72
    """Side of the square that the transformer sees, in pixels; images are resized to it."""
    patch_size: int = 6
    hidden_dim: int = 64
    """Length of a token."""
    num_layers: int = 8
    num_heads: int = 4
    key_dim: int = 64
    """Length of the query and key of one head."""
    mlp_units: tuple[int, ...] = (128, 64)
    """Dense layers of a block, each followed by the activation; the last must equal ``hidden_dim``."""
    head_units: tuple[int, ...] = (2048, 1024)
    pooling: str = "flatten"
    """``flatten`` (all tokens, as published) or ``gap`` (mean over the tokens: far fewer weights)."""
    activation: str = "gelu"
    spt: bool = True
    """Shifted Patch Tokenization; off, patches of the image alone."""
    lsa: bool = True
    """Locality Self-Attention; off, ordinary self-attention. Vanilla ViT = both off."""
    attention_dropout: float = 0.1
    mlp_dropout: float = 0.1
    head_dropout: float = 0.5
    stochastic_depth: float = 0.0
    """Probability of skipping the last block's branches in training; earlier blocks proportionally less."""
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self):
        for field in dataclasses.fields(self):  # a config may come from an untrusted file
            value = getattr(self, field.name)
            if field.type.startswith("tuple") and isinstance(value, (list, tuple)):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            if not is_a(field.type, value):
                raise UsageError(f"{field.name} must be of type {field.type}; got {value!r}.")
        if len(self.input_size) != 3 or min(self.input_size) < 1:
            raise UsageError(
                f"input_size must be (height, width, channels), all positive; got {self.input_size}."
            )
        for name in (
            "num_classes",
            "image_size",
            "patch_size",
            "hidden_dim",
            "num_layers",
            "num_heads",
            "key_dim",
        ):
            if int(getattr(self, name)) < 1:
                raise UsageError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.key_dim < 2:
            # Keras 3.15 on TensorFlow adds a (heads, 1) bias along the tokens where there are as many tokens as heads.
            raise UsageError("key_dim must be at least 2.")
        if self.num_classes < 2:
            raise UsageError(
                "num_classes must be at least 2: there is nothing to classify with one class."
            )
        if self.image_size % self.patch_size:
            fitting = self.image_size - self.image_size % self.patch_size or self.patch_size
            raise UsageError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; "
                f"use an image size such as {fitting} or {fitting + self.patch_size}."
            )
        if self.spt and self.patch_size < 2:
            raise UsageError(
                "Shifted Patch Tokenization shifts by half a patch, so patch_size must be at least 2."
            )
        if not self.mlp_units or min(self.mlp_units) < 1 or self.mlp_units[-1] != self.hidden_dim:
            raise UsageError(
                f"The last of mlp_units must equal hidden_dim ({self.hidden_dim}); got {self.mlp_units}."
            )
        if self.head_units and min(self.head_units) < 1:
            raise UsageError(f"head_units must be positive; got {self.head_units}.")
        if self.pooling not in POOLINGS:
            raise UsageError(f"pooling must be one of {', '.join(POOLINGS)}; got {self.pooling!r}.")
        if self.activation not in ACTIVATIONS:
            raise UsageError(
                f"activation must be one of {', '.join(ACTIVATIONS)}; got {self.activation!r}."
            )
        if self.lsa and self.tokens < 2:
            raise UsageError(
                "Locality Self-Attention needs at least 2 tokens: make patch_size smaller than image_size."
            )
        if not 0 < self.layer_norm_epsilon < 1:
            raise UsageError(
                f"layer_norm_epsilon must be in (0, 1); got {self.layer_norm_epsilon}."
            )
        for name in ("attention_dropout", "mlp_dropout", "head_dropout", "stochastic_depth"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"{name} must be in [0, 1); got {getattr(self, name)}.")

    @property
    def tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def parameter_count(self) -> int:
        """Weights of the model, without the statistics of the normalisation."""

        def dense(sizes):
            return sum(n * m + m for n, m in pairwise(sizes))

        hidden, inner = self.hidden_dim, self.num_heads * self.key_dim
        patch = self.patch_size**2 * self.input_size[2] * (5 if self.spt else 1)
        tokenization = dense((patch, hidden)) + (2 * patch if self.spt else 0)
        attention = 3 * dense((hidden, inner)) + dense((inner, hidden)) + (1 if self.lsa else 0)
        block = attention + 4 * hidden + dense((hidden, *self.mlp_units))
        features = hidden * (self.tokens if self.pooling == "flatten" else 1)
        head = 2 * hidden + dense((features, *self.head_units, self.num_classes))
        return tokenization + self.tokens * hidden + self.num_layers * block + head

    def for_data(self, input_size: tuple[int, int, int], num_classes: int) -> VitConfig:
        """The same architecture for images of ``input_size`` (height, width, channels) and ``num_classes`` classes."""
        return dataclasses.replace(self, input_size=tuple(input_size), num_classes=num_classes)

    def to_dict(self) -> dict:
        """A JSON-able dict; the inverse of :meth:`from_dict`."""
        return {
            field.name: list(value)
            if isinstance(value := getattr(self, field.name), tuple)
            else value
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_dict(cls, values: dict) -> VitConfig:
        """Raises UsageError for unknown or ill-typed entries (a config may come from an untrusted file)."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UsageError(f"Unknown architecture options: {', '.join(unknown)}.")
        try:
            return cls(**values)
        except TypeError as error:  # not a mapping of names
            raise UsageError(f"Unusable architecture: {error}") from error


def is_a(annotation: str, value) -> bool:
    """Whether a value has the type that a dataclass' field is annotated with."""
    if annotation.startswith("tuple"):
        return isinstance(value, tuple) and all(is_a("int", item) for item in value)
    if annotation == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, {"int": int, "bool": bool, "str": str}[annotation]) and (
        annotation == "bool" or not isinstance(value, bool)
    )
