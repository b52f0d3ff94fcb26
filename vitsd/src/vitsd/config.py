"""What a model is made of: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import Architecture, ModelSpec
from vitsd_runtime.spec.limits import MAX_CLASSES, MAX_SCORES, MAX_SIDE, MAX_WEIGHTS
from vitsd_runtime.validation import option

Shape = tuple[int, ...]
BATCH_NORM_EPSILON = 1e-3
"""Added to the variances."""


@dataclass(frozen=True)
class VitConfig(Architecture):
    """A Vision Transformer for small datasets: its architecture, and the images it is made for.

    The defaults are the published recipe (preset ``vit-small-ds``). ``input_size`` and
    ``num_classes`` usually come from the dataset (see :meth:`for_data`).

    Raises:
        UsageError: the values can't make a model; the message names the option and its range.
    """

    input_size: tuple[int, int, int] = option(
        (32, 32, 3),
        "height, width and channels of the dataset's images, in pixels",
        at_least=1,
        at_most=MAX_SIDE,
    )
    num_classes: int = option(100, "classes to tell apart", at_least=2, at_most=MAX_CLASSES)
    image_size: int = option(
        72,
        "side of the square that the transformer sees, in pixels; images are resized to it",
        at_least=1,
        at_most=MAX_SIDE,
    )

    def __post_init__(self) -> None:
        """Check each option and how they fit together."""
        super().__post_init__()
        if len(self.input_size) != 3:
            raise UsageError(
                "input_size must be (height, width, channels), all positive; got "
                f"{self.input_size}."
            )
        if rest := self.image_size % self.patch_size:
            fitting = self.image_size - rest or self.patch_size
            raise UsageError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; "
                f"use an image size such as {fitting} or {fitting + self.patch_size}."
            )
        if self.pool_tokens_after and self.grid % 2:
            raise UsageError(
                f"pool_tokens_after takes 2x2 tokens together, so their number on a side must be "
                f"even; image_size {self.image_size} and patch_size {self.patch_size} make "
                f"{self.grid}."
            )
        if self.lsa and self.last_tokens < 2:
            pooled = ", or pool_tokens_after 0" if self.pool_tokens_after else ""
            raise UsageError(
                "Locality Self-Attention needs at least 2 tokens: make patch_size smaller than "
                f"image_size{pooled}."
            )
        self._check_cost()

    def _check_cost(self) -> None:
        scores = self.num_heads * self.tokens**2
        if scores > MAX_SCORES:
            raise UsageError(
                f"{self.num_heads} heads on {self.tokens:,} tokens take {scores:,} attention "
                f"weights an image; at most {MAX_SCORES:,} are possible. Make patch_size larger, "
                "or image_size smaller."
            )
        if (weights := self.parameter_count()) > MAX_WEIGHTS:
            raise UsageError(
                f"The model has {weights:,} weights; at most {MAX_WEIGHTS:,} are possible."
            )

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> VitConfig:
        """The config of a trained model.

        Raises:
            UsageError: the spec has no architecture, or it can't make a model of its sizes.
        """
        if spec.architecture is None:
            raise UsageError(f"The spec of {spec.name} has no architecture.")
        return cls(
            **dataclasses.asdict(spec.architecture),
            input_size=spec.input_size,
            num_classes=spec.num_classes,
            image_size=spec.image_size,
        )

    @property
    def architecture(self) -> Architecture:
        """The part that a spec stores as such; the rest are fields of the spec itself."""
        return self.alone()

    @property
    def grid(self) -> int:
        """Tokens on a side of an image, before they are pooled."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Number of tokens of an image, before they are pooled."""
        return self.grid**2

    def block_grid(self, block: int) -> int:
        """Tokens on a side in block number ``block``, from 0."""
        return self.grid // 2 if 0 < self.pool_tokens_after <= block else self.grid

    def block_tokens(self, block: int) -> int:
        """Number of tokens in that block."""
        return self.block_grid(block) ** 2

    @property
    def last_tokens(self) -> int:
        """Number of tokens in the last block, and in front of the head."""
        return self.block_tokens(self.num_layers - 1)

    def pools_before(self, block: int) -> bool:
        """Whether every 2x2 tokens become one in front of that block."""
        return 0 < block == self.pool_tokens_after

    @property
    def mlp_activations(self) -> tuple[str, ...]:
        """What follows each dense layer of a block, by Keras' names."""
        last = self.activation if self.mlp_output_activation else "linear"
        return (self.activation,) * (len(self.mlp_units) - 1) + (last,)

    def stem_shapes(self) -> Iterator[tuple[int, int]]:
        """Input channels and filters of the convolutions, the one that makes the tokens last."""
        sizes = (self.input_size[2], *self.stem_filters, self.hidden_dim)
        return pairwise(sizes if self.stem_filters else ())

    @property
    def stem_strides(self) -> tuple[int, ...]:
        """Of these convolutions."""
        layers = len(self.stem_filters) + 1
        return convolution_strides(layers, self.patch_size) if self.stem_filters else ()

    def weight_shapes(self) -> Iterator[Shape]:
        """The shapes of all weights, without the statistics of the normalization."""
        hidden, heads = self.hidden_dim, (self.num_heads, self.key_dim)
        yield from self._tokenization_shapes()
        yield (self.tokens, hidden)
        for _ in range(self.num_layers):
            for _ in ("query", "key", "value"):
                yield from ((hidden, *heads), heads)
            yield from ((*heads, hidden), (hidden,))
            if self.lsa:
                yield ()
            yield from 4 * [(hidden,)]  # two norms
            yield from _dense(hidden, *self.mlp_units)
            if self.mlp_convolution:
                yield from ((3, 3, self.mlp_units[0], 1), self.mlp_units[:1])
        yield from 2 * [(hidden,)]
        features = hidden * (self.last_tokens if self.pooling == "flatten" else 1)
        yield from _dense(features, *self.head_units, self.num_classes)

    def _tokenization_shapes(self) -> Iterator[Shape]:
        for inputs, outputs in self.stem_shapes():
            yield (3, 3, inputs, outputs)
            yield from 4 * [(outputs,)]  # batch normalization
        if not self.stem_filters:
            patch = self.patch_size**2 * self.input_size[2] * (5 if self.spt else 1)
            if self.spt:
                yield from ((patch,), (patch,))
            yield from _dense(patch, self.hidden_dim)

    def parameter_count(self) -> int:
        """Number of weights of the model, without the statistics of the normalization."""
        return sum(map(math.prod, self.weight_shapes()))

    def for_data(self, input_size: tuple[int, int, int], num_classes: int) -> VitConfig:
        """The same architecture for other images and classes.

        Args:
            input_size: height, width and channels.
            num_classes: at least 2.
        """
        return dataclasses.replace(self, input_size=input_size, num_classes=num_classes)


def convolution_strides(layers: int, patch_size: int) -> tuple[int, ...]:
    """Strides of convolutions that make a token of every ``patch_size`` pixels: the last are 2."""
    halvings = patch_size.bit_length() - 1
    return (1,) * (layers - halvings) + (2,) * halvings


def _dense(*sizes: int) -> Iterator[Shape]:
    """Kernel and bias of dense layers from the first size to the last."""
    for inputs, outputs in pairwise(sizes):
        yield from ((inputs, outputs), (outputs,))
