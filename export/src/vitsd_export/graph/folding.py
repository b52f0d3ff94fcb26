"""Fold a trained model into the smaller, algebraically equal weights of its inference graph.

Everything here is NumPy in float64; :mod:`vitsd_export.graph.ops` casts the result to float32.
Below, ``n(x)`` is ``(x - mean(x)) / sqrt(var(x) + eps)``, a LayerNorm without its scale ``g`` and
shift ``beta``.

The steps, each exact in real arithmetic:

1. **Scale and shift of a LayerNorm** move into the linear map that follows:
   ``(g n + beta) W + b = n (diag(g) W) + (b + beta W)``.
2. **Mean removal.** Only LayerNorms read the residual stream, so its mean per token is irrelevant.
   A linear map that writes the stream has its output centered once, here, and the LayerNorm after
   it needs no mean. Where an activation stands between the MLP's last dense layer and the stream,
   that mean remains.
3. **Softmax** ignores what is constant along a row, so the key bias vanishes. Its rows sum to one,
   so the value bias passes through attention unchanged and joins the output bias.
4. **Query-key and value-output merge**, per head: ``(n Wq + bq)(n Wk)^T = (n A + c) n^T`` with
   ``A = Wq Wk^T`` and ``c = bq Wk^T``, and ``weights (n Wv) Wo = (weights n) B`` with
   ``B = Wv Wo``: keys and values are then ``n`` itself, shared by all heads.
5. **Batch normalization** scales and shifts by constants at inference, which join the convolution
   before it. A sum of an image and its depthwise convolution is one depthwise convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vitsd.config import BATCH_NORM_EPSILON, VitConfig
from vitsd.model import names
from vitsd_runtime.types import AnyArray, FloatArray


@dataclass(frozen=True)
class Dense:
    """``x @ kernel + bias``; kernel ``(inputs, outputs)``, bias ``(outputs,)``, float64."""

    kernel: FloatArray
    bias: FloatArray

    def after_norm(self, scale: FloatArray, shift: FloatArray) -> Dense:
        """The same map on ``n`` instead of ``scale * n + shift``."""
        return Dense(scale[:, None] * self.kernel, self.bias + shift @ self.kernel)

    def centered(self) -> Dense:
        """The same map with every output vector's mean removed."""
        return Dense(
            self.kernel - self.kernel.mean(axis=1, keepdims=True), self.bias - self.bias.mean()
        )


@dataclass(frozen=True)
class Convolution:
    """A 3x3 convolution with zeros around the image ("same" padding)."""

    kernel: FloatArray
    """``(3, 3, channels, filters)``, float64."""
    bias: FloatArray
    """``(filters,)``."""
    stride: int

    def centered(self) -> Convolution:
        """The same map with every output vector's mean removed."""
        kernel = self.kernel - self.kernel.mean(axis=-1, keepdims=True)
        return Convolution(kernel, self.bias - self.bias.mean(), self.stride)


@dataclass(frozen=True)
class DepthwiseConvolution:
    """A 3x3 convolution of each channel with itself, with zeros around the image."""

    kernel: FloatArray
    """``(3, 3, channels)``, float64."""
    bias: FloatArray
    """``(channels,)``."""


@dataclass(frozen=True)
class Attention:
    """Attention over normalized tokens ``n``; heads side by side in the columns of ``query``.

    With ``key`` and ``value`` None the products are merged (step 4): keys and values are ``n``
    itself.
    """

    query: Dense
    """``(hidden_dim, heads * d)``, the temperature divided in; d is ``hidden_dim`` if merged, else
    ``key_dim``."""
    key: Dense | None
    """``(hidden_dim, heads * key_dim)``; its bias is zero, as is that of the value."""
    value: Dense | None
    output: Dense
    """``(heads * d, hidden_dim)``, centered."""


@dataclass(frozen=True)
class Block:
    """One transformer block; the scales and shifts of its LayerNorms are folded in."""

    attention: Attention
    mlp: list[Dense]
    """The last is centered, unless an activation follows it."""
    convolution: DepthwiseConvolution | None
    """After the first layer of the MLP, before its activation."""


@dataclass(frozen=True)
class FoldedVit:
    """The weights of the inference graph, all float64."""

    config: VitConfig
    stem: list[Convolution]
    """In front of the tokenization, each followed by ReLU; empty where patches are cut."""
    tokenization: Dense | Convolution
    """On patches normalized without scale and shift (SPT), on plain patches, or on what the stem
    makes; centered."""
    position_embedding: FloatArray
    """``(tokens, hidden_dim)``, centered."""
    blocks: list[Block]
    head: list[Dense] = field(repr=False)
    """Hidden head layers, then the logits; the final LayerNorm folded into the first."""


def merging_pays(config: VitConfig, block: int) -> bool:
    """Whether a block's merged products cost fewer multiplications per token.

    ``d (d + tokens) < k (2 d + tokens)``, with d ``hidden_dim`` and k ``key_dim``.
    """
    hidden_dim, key_dim = config.hidden_dim, config.key_dim
    tokens = config.block_tokens(block)
    return hidden_dim * (hidden_dim + tokens) < key_dim * (2 * hidden_dim + tokens)


def score_bounds(attention: Attention, config: VitConfig) -> FloatArray:
    """For each head a bound of the absolute scores that no input can exceed, ``(heads,)``.

    A score is ``n_i A n_j + c n_j`` (see step 4), and a normalized token is no longer than
    ``sqrt(hidden_dim)``.
    """
    hidden_dim, heads = config.hidden_dim, config.num_heads
    queries = attention.query.kernel.reshape(hidden_dim, heads, -1).transpose(1, 0, 2)
    offsets = attention.query.bias.reshape(heads, -1)
    if attention.key is not None:
        keys = attention.key.kernel.reshape(hidden_dim, heads, -1).transpose(1, 2, 0)
        queries, offsets = queries @ keys, np.einsum("hk,hkw->hw", offsets, keys)
    # Normalized tokens have no mean.
    centering: FloatArray = np.eye(hidden_dim) - 1 / hidden_dim
    largest = np.linalg.norm(centering @ queries @ centering, ord=2, axis=(1, 2))
    shifts = np.linalg.norm(offsets @ centering, axis=1)
    bounds: FloatArray = hidden_dim * largest + np.sqrt(hidden_dim) * shifts
    return bounds


def fold(
    weights: Mapping[str, AnyArray], config: VitConfig, merge: bool | None = None
) -> FoldedVit:
    """Fold the weights of a model made by :func:`vitsd.build_vit`.

    Args:
        weights: ``{"layer/variable": array}``, as
            :func:`vitsd_export.graph.weights.read_weights` gives them.
        config: the model's architecture.
        merge: force or forbid step 4; by default it is done in the blocks where it pays.

    Returns:
        float64 weights for :func:`vitsd_export.graph.module.build_logits`.
    """
    exact = {name: np.asarray(value, np.float64) for name, value in weights.items()}

    def dense(name: str) -> Dense:
        return Dense(exact[f"{name}/kernel"], exact[f"{name}/bias"])

    def norm(name: str) -> tuple[FloatArray, FloatArray]:
        return exact[f"{name}/gamma"], exact[f"{name}/beta"]

    stem, tokenization = _fold_tokenization(exact, config)
    positions = exact[f"{names.POSITION_EMBEDDING}/embedding"]

    blocks = []
    for i in range(config.num_layers):
        mlp = [dense(names.mlp(i, j)) for j in range(len(config.mlp_units))]
        mlp[0] = mlp[0].after_norm(*norm(names.mlp_norm(i)))
        if not config.mlp_output_activation:
            mlp[-1] = mlp[-1].centered()
        convolution = _fold_convolution(exact, i) if config.mlp_convolution else None
        merged = merging_pays(config, i) if merge is None else merge
        attention = _fold_attention(exact, i, norm(names.attention_norm(i)), config, merged)
        blocks.append(Block(attention, mlp, convolution))

    head = [dense(names.head(i)) for i in range(len(config.head_units))] + [dense(names.LOGITS)]
    scale, shift = norm(names.FINAL_NORM)
    if config.pooling == "flatten":
        # The first layer sees every token's features one after the other.
        scale, shift = np.tile(scale, config.last_tokens), np.tile(shift, config.last_tokens)
    head[0] = head[0].after_norm(scale, shift)

    return FoldedVit(
        config=config,
        stem=stem,
        tokenization=tokenization.centered(),
        position_embedding=positions - positions.mean(axis=1, keepdims=True),
        blocks=blocks,
        head=head,
    )


def _fold_tokenization(
    weights: Mapping[str, FloatArray], config: VitConfig
) -> tuple[list[Convolution], Convolution | Dense]:
    """The stem, and the layer that makes the tokens."""

    def part(name: str) -> FloatArray:
        return weights[f"{names.TOKENIZATION}/{name}"]

    if config.stem_filters:
        layers = []
        for i, stride in enumerate(config.stem_strides):
            gamma, beta, mean, variance = (
                part(f"{names.batch_norm(i)}/{name}")
                for name in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
            kernel = part(f"{names.convolution(i)}/kernel")
            layers.append(Convolution(kernel * scale, beta - mean * scale, stride))
        return layers[:-1], layers[-1]
    projection = Dense(part("projection/kernel"), part("projection/bias"))
    if config.spt:
        projection = projection.after_norm(part("norm/gamma"), part("norm/beta"))
    return [], projection


def _fold_convolution(weights: Mapping[str, FloatArray], block: int) -> DepthwiseConvolution:
    name = names.mlp_convolution(block)
    kernel = weights[f"{name}/kernel"][..., 0].copy()
    kernel[1, 1] += 1.0
    return DepthwiseConvolution(kernel, weights[f"{name}/bias"])


def _fold_attention(
    weights: Mapping[str, FloatArray],
    block: int,
    norm: tuple[FloatArray, FloatArray],
    config: VitConfig,
    merge: bool,
) -> Attention:
    name = names.attention(block)
    heads, key_dim, hidden_dim = config.num_heads, config.key_dim, config.hidden_dim

    def projection(part: str) -> Dense:
        kernel = weights[f"{name}/{part}/kernel"].reshape(hidden_dim, heads * key_dim)
        return Dense(kernel, weights[f"{name}/{part}/bias"].reshape(-1)).after_norm(*norm)

    query, key, value = projection("query"), projection("key"), projection("value")
    tau = weights[f"{name}/tau"] if config.lsa else np.sqrt(key_dim)
    query = Dense(query.kernel / tau, query.bias / tau)
    output = Dense(
        weights[f"{name}/projection/kernel"].reshape(heads * key_dim, hidden_dim),
        weights[f"{name}/projection/bias"],
    )
    output = Dense(output.kernel, output.bias + value.bias @ output.kernel).centered()
    if merge:
        return _merge(query, key, value, output, config)
    none = np.zeros(heads * key_dim)
    return Attention(query, Dense(key.kernel, none), Dense(value.kernel, none), output)


def _merge(query: Dense, key: Dense, value: Dense, output: Dense, config: VitConfig) -> Attention:
    """Step 4."""
    heads, key_dim, hidden_dim = config.num_heads, config.key_dim, config.hidden_dim

    def per_head(matrix: FloatArray) -> FloatArray:
        """From ``(hidden_dim, heads * key_dim)`` to ``(heads, hidden_dim, key_dim)``."""
        return matrix.reshape(hidden_dim, heads, key_dim).transpose(1, 0, 2)

    keys = per_head(key.kernel)
    products = per_head(query.kernel) @ keys.transpose(0, 2, 1)  # (heads, hidden_dim, hidden_dim)
    offsets = keys @ query.bias.reshape(heads, key_dim, 1)  # (heads, hidden_dim, 1)
    outputs = per_head(value.kernel) @ output.kernel.reshape(heads, key_dim, hidden_dim)
    return Attention(
        query=Dense(
            products.transpose(1, 0, 2).reshape(hidden_dim, heads * hidden_dim),
            offsets.reshape(heads * hidden_dim),
        ),
        key=None,
        value=None,
        output=Dense(outputs.reshape(heads * hidden_dim, hidden_dim), output.bias),
    )
