"""The architecture section of a spec: what a Vision Transformer for small datasets is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec.limits import (
    MAX_DENSE_LAYERS,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_SIDE,
    MAX_UNITS,
)
from vitsd_runtime.system.text import printable
from vitsd_runtime.validation import option, validate

_Self = TypeVar("_Self", bound="Architecture")
POOLINGS = ("flatten", "gap")
ACTIVATIONS = ("gelu", "relu")
SCHEMAS: Mapping[str, int] = {
    "stem_filters": 5,
    "mlp_output_activation": 5,
    "mlp_convolution": 5,
    "pool_tokens_after": 6,
}
"""Options that came later, by the schema version of specs that they came with."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of the layers. The defaults are the published recipe (preset ``vit-small-ds``).

    Raises:
        UsageError: the values can't make a model; the message names the option and its range.
    """

    patch_size: int = option(6, "side of a patch in pixels", at_least=1, at_most=MAX_SIDE)
    hidden_dim: int = option(64, "length of a token", at_least=1, at_most=MAX_UNITS)
    num_layers: int = option(8, "transformer blocks", at_least=1, at_most=MAX_LAYERS)
    num_heads: int = option(4, "attention heads of a block", at_least=1, at_most=MAX_HEADS)
    # Keras 3.15 on TensorFlow adds a (heads, 1) bias along the tokens where there are as many
    # tokens as heads, so a key has at least two elements.
    key_dim: int = option(
        64, "length of the query and key of one head", at_least=2, at_most=MAX_UNITS
    )
    mlp_units: tuple[int, ...] = option(
        (128, 64),
        "dense layers of a block, each followed by the activation; the last equals hidden_dim",
        at_least=1,
        at_most=MAX_UNITS,
    )
    head_units: tuple[int, ...] = option(
        (2048, 1024),
        "hidden dense layers of the classification head",
        at_least=1,
        at_most=MAX_UNITS,
    )
    pooling: str = option(
        "flatten",
        "flatten (all tokens, as published) or gap (mean over the tokens: far fewer weights)",
        choices=POOLINGS,
    )
    activation: str = option("gelu", "after every dense layer but the last", choices=ACTIVATIONS)
    mlp_output_activation: bool = option(
        True, "the activation after the last dense layer of a block too, as published"
    )
    mlp_convolution: bool = option(
        False,
        "a depthwise 3x3 convolution over neighboring tokens before a block's first activation",
    )
    pool_tokens_after: int = option(
        0,
        "blocks after which every 2x2 tokens become one, their mean; 0: never",
        at_least=0,
        at_most=MAX_LAYERS - 1,
    )
    spt: bool = option(True, "Shifted Patch Tokenization; off: patches of the image alone")
    stem_filters: tuple[int, ...] = option(
        (),
        "instead of cutting patches: overlapping 3x3 convolutions with these numbers of filters, "
        "and one more that makes the tokens; together they halve the image to patch_size",
        at_least=1,
        at_most=MAX_UNITS,
    )
    lsa: bool = option(True, "Locality Self-Attention; off: ordinary self-attention")
    attention_dropout: float = option(
        0.1, "dropout rate of the attention weights", at_least=0, below=1
    )
    mlp_dropout: float = option(
        0.1, "dropout rate after each dense layer of a block", at_least=0, below=1
    )
    head_dropout: float = option(0.5, "dropout rate in the head", at_least=0, below=1)
    stochastic_depth: float = option(
        0.0,
        "probability of skipping the last block's branches in training; earlier blocks less",
        at_least=0,
        below=1,
    )
    layer_norm_epsilon: float = option(
        1e-6, "added to the variance in every LayerNorm", above=0, below=1
    )

    def __post_init__(self) -> None:
        """Check each option and how they fit together."""
        validate(self)
        for name in ("mlp_units", "head_units", "stem_filters"):
            if len(getattr(self, name)) > MAX_DENSE_LAYERS:
                raise UsageError(f"{name} must be at most {MAX_DENSE_LAYERS} layers.")
        self._check_stem()
        if not self.mlp_units or self.mlp_units[-1] != self.hidden_dim:
            raise UsageError(
                f"The last of mlp_units must equal hidden_dim ({self.hidden_dim}); "
                f"got {self.mlp_units}."
            )
        if self.mlp_convolution and len(self.mlp_units) < 2:
            raise UsageError("mlp_convolution stands between two layers of mlp_units; got one.")
        if self.pool_tokens_after >= self.num_layers:
            raise UsageError(
                f"No block is left behind pool_tokens_after {self.pool_tokens_after}: it must be "
                f"below num_layers ({self.num_layers})."
            )
        if self.spt and self.patch_size < 2:
            raise UsageError(
                "Shifted Patch Tokenization shifts by half a patch, so patch_size must be at "
                "least 2."
            )

    def _check_stem(self) -> None:
        if not self.stem_filters:
            return
        if self.spt:
            raise UsageError(
                "stem_filters takes the place of Shifted Patch Tokenization: turn spt off."
            )
        layers = len(self.stem_filters) + 1
        if self.patch_size & (self.patch_size - 1) or self.patch_size > 2**layers:
            raise UsageError(
                f"{layers} convolutions halve an image at most {layers} times: patch_size must be "
                f"a power of 2 up to {2**layers}; got {self.patch_size}."
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serializable dict; the inverse of :meth:`from_dict`.

        Options that older runtimes do not know are left out where nothing has changed for them.
        """
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in dataclasses.fields(self)
            for value in (getattr(self, field.name),)
            if not (field.name in SCHEMAS and value == field.default)
        }

    @classmethod
    def of(cls, value: Architecture | Mapping[str, Any]) -> Architecture | None:
        """The architecture alone, of a subclass or of JSON; None for an empty object.

        Raises:
            UsageError: as for :meth:`from_dict`.
        """
        if isinstance(value, Architecture):
            return value.alone()
        return cls.from_dict(value) if value else None

    def alone(self) -> Architecture:
        """The architecture without what a subclass adds to it."""
        names = (field.name for field in dataclasses.fields(Architecture))
        return Architecture(**{name: getattr(self, name) for name in names})

    @classmethod
    def from_dict(cls: type[_Self], values: Mapping[str, Any]) -> _Self:
        """Raises UsageError for unknown or ill-typed entries: they may be anyone's."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping):
            raise UsageError(
                f"An architecture is an object of options; got {printable(values, 80)}."
            )
        if unknown := sorted(str(name) for name in set(values) - known):
            raise UsageError(f"Unknown architecture options: {printable(', '.join(unknown))}.")
        return cls(**values)
