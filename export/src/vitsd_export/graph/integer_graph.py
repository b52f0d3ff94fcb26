"""The graph of integer-only TFLite files, of operations that have fast integer kernels.

The batch is fixed at 1, so that the products of attention are rank-2 products of two activations.
TFLite runs those as FULLY_CONNECTED, in int8 nine times faster than BATCH_MATMUL.

Every operation stands in the scope of a dense layer or of a :class:`TensorGroup`. The quantizer
knows the groups by these scopes, and chooses the ranges of a group's tensors alike. Which tensor is
in which group is part of what recipes mean: a change makes old recipes give other files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import Enum

import numpy as np
import tensorflow as tf

from vitsd.config import VitConfig
from vitsd_export.graph import layer_names
from vitsd_export.graph.folding import (
    Attention,
    Block,
    Convolution,
    Dense,
    DepthwiseConvolution,
    FoldedVit,
)
from vitsd_export.graph.ops import (
    Tensor,
    activate,
    constant,
    dense,
    depthwise_convolution,
    mean,
    pool_tokens,
)
from vitsd_export.graph.tokenization import convolve, cut_patches
from vitsd_runtime.types import FloatArray


class TensorGroup(Enum):
    """Tensors whose ranges are chosen alike; the values are the names in recipes."""

    FIRST_NORM = "first norm"
    """Of patches: their inverse deviation. A blank patch has no variance: its inverse deviation is
    hundreds of times the others', and multiplies zeros."""
    SECOND_NORM = "second norm"
    """Of patches: 1 in float; more or less where the first norm was rounded or clipped."""
    IMAGES = "images"
    """The model's input."""
    LOGITS = "logits"
    """The model's output."""
    PATCHES = "patches"
    SCORES = "scores"
    """Of the first head, of all heads where they are merged."""
    ATTENDED = "attended"
    """Values weighted by attention, of the same heads."""
    INVERSE_DEVIATIONS = "inverse deviations"
    """Of the tokens."""
    DENSE_OUTPUTS = "dense outputs"
    """Of dense layers, and the products of attention of the other heads."""
    ACTIVATIONS = "activations"
    RESIDUAL_STREAM = "residual stream"
    """The stream, and the variances of its tokens."""
    NORMALIZED = "normalized"
    """Normalized tokens, and the squares that their variances are the means of."""
    INTERMEDIATES = "intermediates"
    """What is between those: means, attention weights, heads split and joined."""

    @property
    def scope(self) -> str:
        """Of its operations in the graph."""
        return self.value.replace(" ", "_")


def build_integer_logits(images: Tensor, folded: FoldedVit, masks: tuple[float, ...]) -> Tensor:
    """One preprocessed float32 image to float32 logits ``(1, num_classes)``.

    Args:
        images: ``(1, image_size, image_size, channels)``.
        folded: the weights.
        masks: for each block, what is added to a token's score for itself; see
            :func:`vitsd_export.graph.masks.bounded_masks`.
    """
    config = folded.config
    stream = _tokenize(images, folded)  # (tokens, hidden_dim), mean-free
    for i, block in enumerate(folded.blocks):
        if config.pools_before(i):
            with _in(TensorGroup.RESIDUAL_STREAM):
                pooled = pool_tokens(stream, config.grid)
            with _in(TensorGroup.INTERMEDIATES):
                stream = tf.reshape(pooled, pooled.shape[1:])
        attended = _attention(stream, block.attention, config, masks[i], i)
        with _in(TensorGroup.RESIDUAL_STREAM):
            middle = stream + attended
        branch = _mlp(_unit_variance(middle, config.layer_norm_epsilon), block, config, i)
        # The MLP's branch is centered before it is added, not after, because it is smaller than
        # the stream, and so is its rounding in int8. For the same reason, both branches are added
        # up before they join the stream that the next block reads.
        with _in(TensorGroup.RESIDUAL_STREAM):
            stream = stream + (attended + branch)
    return _classify(_unit_variance(stream, config.layer_norm_epsilon), folded)


@contextlib.contextmanager
def _in(group: TensorGroup) -> Iterator[None]:
    with tf.name_scope(f"{group.scope}/"):  # with the slash: exactly this scope, not a numbered one
        yield


def _tokenize(images: Tensor, folded: FoldedVit) -> Tensor:
    config, tokenization = folded.config, folded.tokenization
    if isinstance(tokenization, Convolution):
        grid = convolve(images, folded, tokenization, _relu)
        with _in(TensorGroup.INTERMEDIATES):
            projected = tf.reshape(grid, (-1, config.tokens, config.hidden_dim))
    else:
        projected = _project_patches(images, folded, tokenization)
    # Fold the projection's bias into the position embedding: one addition instead of two.
    with _in(TensorGroup.RESIDUAL_STREAM):
        stream = projected + constant(folded.position_embedding + tokenization.bias)
    with _in(TensorGroup.INTERMEDIATES):
        return tf.reshape(stream, (config.tokens, config.hidden_dim))


def _relu(values: Tensor) -> Tensor:
    with _in(TensorGroup.ACTIVATIONS):
        return tf.nn.relu(values)


def _project_patches(images: Tensor, folded: FoldedVit, tokenization: Dense) -> Tensor:
    config = folded.config
    with _in(TensorGroup.PATCHES):
        patches, kernel = cut_patches(images, folded, tokenization)
        if config.spt:
            patches = patches - mean(patches)
    if config.spt:
        patches = _unit_variance_twice(patches, config.layer_norm_epsilon)
    return dense(patches, Dense(kernel, np.zeros(config.hidden_dim)), layer_names.TOKENIZATION)


def _unit_variance_twice(patches: Tensor, epsilon: float) -> Tensor:
    """LayerNorm without scale and shift, exact to a quantization step for any variance.

    One int8 tensor can't hold the inverse deviation of a flat patch and of a busy one with the
    same relative precision. The second factor, 1 but for rounding, repairs what the first lost.
    """
    with _in(TensorGroup.PATCHES):
        variance = mean(patches * patches) + epsilon
    with _in(TensorGroup.FIRST_NORM):
        first = tf.math.rsqrt(variance)
    with _in(TensorGroup.PATCHES):
        scaled = patches * first
        squares, rest = scaled * scaled, epsilon * (first * first)
    with _in(TensorGroup.SECOND_NORM):
        second = tf.math.rsqrt(mean(squares) + rest)
    with _in(TensorGroup.PATCHES):
        return scaled * second


def _unit_variance(centered: Tensor, epsilon: float) -> Tensor:
    inverse = _inverse_deviation(centered, epsilon)
    with _in(TensorGroup.NORMALIZED):
        return centered * inverse


def _inverse_deviation(centered: Tensor, epsilon: float) -> Tensor:
    with _in(TensorGroup.NORMALIZED):
        squares = centered * centered
    with _in(TensorGroup.INTERMEDIATES):
        variance = mean(squares)
    with _in(TensorGroup.RESIDUAL_STREAM):
        variance = variance + epsilon
    with _in(TensorGroup.INVERSE_DEVIATIONS):
        return tf.math.rsqrt(variance)


def _mlp(branch: Tensor, block: Block, config: VitConfig, number: int) -> Tensor:
    for j, (layer, activation) in enumerate(zip(block.mlp, config.mlp_activations, strict=True)):
        branch = dense(branch, layer, layer_names.mlp(number, j))
        if j == 0 and block.convolution is not None:
            branch = _convolve_tokens(branch, block.convolution, config.block_grid(number))
        with _in(TensorGroup.ACTIVATIONS):
            branch = activate(branch, activation)
    if not config.mlp_output_activation:
        return branch
    with _in(TensorGroup.INTERMEDIATES):
        return branch - mean(branch)


def _convolve_tokens(tokens: Tensor, convolution: DepthwiseConvolution, side: int) -> Tensor:
    units = tokens.shape[-1]
    with _in(TensorGroup.INTERMEDIATES):
        grid = tf.reshape(tokens, (1, side, side, units))
    with _in(TensorGroup.DENSE_OUTPUTS):
        convolved = depthwise_convolution(grid, convolution)
    with _in(TensorGroup.INTERMEDIATES):
        return tf.reshape(convolved, (side * side, units))


def _classify(stream: Tensor, folded: FoldedVit) -> Tensor:
    config = folded.config
    with _in(TensorGroup.INTERMEDIATES):
        if config.pooling == "flatten":
            features = tf.reshape(stream, (-1, config.last_tokens * config.hidden_dim))
        else:
            features = tf.reduce_mean(stream, axis=-2, keepdims=True)
    for i, layer in enumerate(folded.head[:-1]):
        features = dense(features, layer, layer_names.head(i))
        with _in(TensorGroup.ACTIVATIONS):
            features = activate(features, config.activation)
    return dense(features, folded.head[-1], layer_names.LOGITS)


def _attention(
    stream: Tensor, attention: Attention, config: VitConfig, mask: float, block: int
) -> Tensor:
    """Attention over one image's ``(tokens, hidden_dim)``.

    TFLite computes ``a @ b`` as FULLY_CONNECTED where ``b`` is the transpose of a tensor. The
    converter fuses a transpose into the product that follows, and makes it a BATCH_MATMUL again;
    so something stands between the two.
    """
    inverse = _inverse_deviation(stream, config.layer_norm_epsilon)
    with _in(TensorGroup.NORMALIZED):
        normed = stream * inverse
    queries = dense(normed, attention.query, layer_names.query(block))
    diagonal = mask * np.eye(stream.shape[0])
    if attention.key is None or attention.value is None:
        attended = _attend_merged(stream, inverse, normed, queries, diagonal, config)
    else:
        keys = dense(normed, attention.key, layer_names.key(block))
        values = dense(normed, attention.value, layer_names.value(block))
        attended = _attend_by_head(queries, keys, values, diagonal, config)
    return dense(attended, attention.output, layer_names.output(block))


def _attend_merged(
    stream: Tensor,
    inverse: Tensor,
    normed: Tensor,
    queries: Tensor,
    diagonal: FloatArray,
    config: VitConfig,
) -> Tensor:
    """Keys and values are the tokens themselves; the heads are rows beside each other."""
    tokens, heads, hidden_dim = stream.shape[0], config.num_heads, config.hidden_dim
    with _in(TensorGroup.INTERMEDIATES):
        queries = tf.reshape(queries, (tokens * heads, hidden_dim))
    mask = np.repeat(diagonal, heads, axis=0) if config.lsa else None
    weights = _masked_softmax(queries, normed, mask)
    with _in(TensorGroup.ATTENDED):
        values = tf.transpose(stream) * tf.reshape(inverse, (1, tokens))
        attended = tf.matmul(weights, values, transpose_b=True)
    with _in(TensorGroup.INTERMEDIATES):
        return tf.reshape(attended, (tokens, heads * hidden_dim))


def _attend_by_head(
    queries: Tensor, keys: Tensor, values: Tensor, diagonal: FloatArray, config: VitConfig
) -> Tensor:
    heads = config.num_heads
    with _in(TensorGroup.INTERMEDIATES):
        values = tf.transpose(values)
        by_head = zip(
            tf.split(queries, heads, axis=1),
            tf.split(keys, heads, axis=1),
            tf.split(values, heads, axis=0),
            strict=True,
        )
    attended = []
    for head, (query, key, value) in enumerate(by_head):
        weights = _masked_softmax(query, key, diagonal if config.lsa else None, first=head == 0)
        with _in(TensorGroup.DENSE_OUTPUTS if head else TensorGroup.ATTENDED):
            attended.append(tf.matmul(weights, value, transpose_b=True))
    with _in(TensorGroup.INTERMEDIATES):
        return tf.concat(attended, axis=1)


def _masked_softmax(
    queries: Tensor, keys: Tensor, mask: FloatArray | None, first: bool = True
) -> Tensor:
    """Attention weights; ``first``: of the first head, whose scores are a group of their own."""
    with _in(TensorGroup.SCORES if first else TensorGroup.DENSE_OUTPUTS):
        scores = tf.matmul(queries, keys, transpose_b=True)
    if mask is not None:
        with _in(TensorGroup.SCORES if first else TensorGroup.INTERMEDIATES):
            scores = scores + constant(mask)
    with _in(TensorGroup.INTERMEDIATES):
        return tf.nn.softmax(scores)
