"""The graph of every file but the integer-only ones.

It keeps to operations that all converters and engines know, with static shapes but for the batch.
"""

from __future__ import annotations

from collections.abc import Callable

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
    score_bounds,
)
from vitsd_export.graph.ops import (
    Tensor,
    activate,
    constant,
    dense,
    depthwise_convolution,
    mean,
    pool_tokens,
    relative_to_first,
    unit_variance,
)
from vitsd_export.graph.options import GraphOptions
from vitsd_export.graph.tokenization import convolve, cut_patches

ScoreObserver = Callable[[int, Tensor], None]
"""Called with a block's number and its attention scores before mask and softmax, ``(batch, tokens
* heads, tokens)`` or ``(batch, heads, tokens, tokens)``."""

_LARGEST_EXPONENT = 85.0
"""exp(85) = 8e36: room for a factor of 40 before float32 overflows."""
_LARGEST_SHIFT = 50.0


def build_float_logits(
    images: Tensor,
    folded: FoldedVit,
    options: GraphOptions | None = None,
    observer: ScoreObserver = lambda block, scores: None,
) -> Tensor:
    """Preprocessed float32 images to float32 logits ``(batch, num_classes)``.

    Args:
        images: ``(batch, image_size, image_size, channels)``.
        folded: the weights.
        options: ``integer_masks`` has no meaning here.
        observer: sees the attention scores.
    """
    config, options = folded.config, options or GraphOptions()
    stream = _tokenize(images, folded)  # (batch, tokens, hidden_dim), mean-free
    if options.flat:
        stream = tf.reshape(stream, (-1, config.hidden_dim))
    for i, block in enumerate(folded.blocks):
        if config.pools_before(i):
            stream = pool_tokens(stream, config.grid)
            if options.flat:
                stream = tf.reshape(stream, (-1, config.hidden_dim))
        normed = _norm(stream, config, options)
        stream = stream + _attention(normed, block.attention, config, options, i, observer)
        stream = stream + _mlp(_norm(stream, config, options), block, config, options, i)
    normed = _norm(stream, config, options)
    return _classify(_by_image(normed, config.last_tokens, options), folded)


def _by_image(values: Tensor, tokens: int, options: GraphOptions) -> Tensor:
    """Values of the stream as ``(batch, tokens, hidden_dim)``."""
    return tf.reshape(values, (-1, tokens, values.shape[-1])) if options.flat else values


def _norm(stream: Tensor, config: VitConfig, options: GraphOptions) -> Tensor:
    centered = stream - mean(stream) if options.flat else stream
    return unit_variance(centered, config.layer_norm_epsilon)


def _tokenize(images: Tensor, folded: FoldedVit) -> Tensor:
    config, tokenization = folded.config, folded.tokenization
    if isinstance(tokenization, Convolution):
        grid = convolve(images, folded, tokenization)
        projected = tf.reshape(grid, (-1, config.tokens, config.hidden_dim))
    else:
        projected = _project_patches(images, folded, tokenization)
    # Fold the projection's bias into the position embedding: one addition instead of two.
    return projected + constant(folded.position_embedding + tokenization.bias)


def _project_patches(images: Tensor, folded: FoldedVit, tokenization: Dense) -> Tensor:
    config = folded.config
    with tf.name_scope(layer_names.PATCHES):
        patches, kernel = cut_patches(images, folded, tokenization)
        if config.spt:
            patches = relative_to_first(patches)
            patches = patches - mean(patches)
            patches = unit_variance(patches, config.layer_norm_epsilon)
    return dense(patches, Dense(kernel, np.zeros(config.hidden_dim)), layer_names.TOKENIZATION)


def _mlp(
    branch: Tensor, block: Block, config: VitConfig, options: GraphOptions, number: int
) -> Tensor:
    for j, (layer, activation) in enumerate(zip(block.mlp, config.mlp_activations, strict=True)):
        branch = dense(branch, layer, layer_names.mlp(number, j))
        if j == 0 and block.convolution is not None:
            branch = _convolve_tokens(branch, block.convolution, config.block_grid(number))
        branch = activate(branch, activation)
    if options.flat or not config.mlp_output_activation:
        return branch
    return branch - mean(branch)  # the output of an activation is not centered


def _convolve_tokens(tokens: Tensor, convolution: DepthwiseConvolution, side: int) -> Tensor:
    *rows, units = tokens.shape
    grid = tf.reshape(tokens, (-1, side, side, units))
    return tf.reshape(depthwise_convolution(grid, convolution), (-1, *rows[1:], units))


def _classify(stream: Tensor, folded: FoldedVit) -> Tensor:
    config = folded.config
    if config.pooling == "flatten":
        features = tf.reshape(stream, (-1, config.last_tokens * config.hidden_dim))
    else:
        features = tf.reduce_mean(stream, axis=-2, keepdims=False)
    for i, layer in enumerate(folded.head[:-1]):
        features = activate(dense(features, layer, layer_names.head(i)), config.activation)
    return dense(features, folded.head[-1], layer_names.LOGITS)


def _attention(
    normed: Tensor,
    attention: Attention,
    config: VitConfig,
    options: GraphOptions,
    block: int,
    observer: ScoreObserver,
) -> Tensor:
    queries, keys, values = _project(normed, attention, config, options, block)
    scores = tf.matmul(queries, keys, transpose_b=True)
    observer(block, scores)
    shift = _exp_shift(attention, config) if options.exp_attention else None
    masked = _masked(scores, attention, config, options.mask, shift or 0.0)
    attended = _softmax_attend(masked, values) if shift is None else _exp_attend(masked, values)
    if attention.key is not None:
        attended = tf.transpose(attended, (0, 2, 1, 3))
    rows = (-1,) if options.flat else (-1, scores.shape[-1])
    joined = tf.reshape(attended, (*rows, attention.output.kernel.shape[0]))
    return dense(joined, attention.output, layer_names.output(block))


def _project(
    normed: Tensor, attention: Attention, config: VitConfig, options: GraphOptions, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values."""
    tokens, heads = config.block_tokens(block), config.num_heads
    if attention.key is None or attention.value is None:
        # Keys and values are the tokens themselves, so the heads are stacked as rows and nothing
        # is transposed.
        queries = dense(normed, attention.query, layer_names.query(block))
        by_image = _by_image(normed, tokens, options)
        return tf.reshape(queries, (-1, tokens * heads, config.hidden_dim)), by_image, by_image

    def split_heads(flat: Tensor) -> Tensor:
        return tf.transpose(tf.reshape(flat, (-1, tokens, heads, config.key_dim)), (0, 2, 1, 3))

    return (
        split_heads(dense(normed, attention.query, layer_names.query(block))),
        split_heads(dense(normed, attention.key, layer_names.key(block))),
        split_heads(dense(normed, attention.value, layer_names.value(block))),
    )


def _softmax_attend(scores: Tensor, values: Tensor) -> Tensor:
    return tf.matmul(tf.nn.softmax(scores), values)


def _exp_attend(scores: Tensor, values: Tensor) -> Tensor:
    weights = tf.exp(scores)
    # In a row whose scores all underflow the sum would be 0.
    return tf.matmul(weights, values) * (
        1.0 / (tf.reduce_sum(weights, axis=-1, keepdims=True) + 1e-30)
    )


def _exp_shift(attention: Attention, config: VitConfig) -> float | None:
    """What to subtract from all scores so that neither exp nor the sums of it can overflow.

    None where that is too much: a row with no score above ``shift - 87`` would underflow as a
    whole.
    """
    # The sums have as many terms as tokens, and normalized values are at most sqrt(hidden_dim).
    room = np.log(config.tokens * np.sqrt(config.hidden_dim))
    shift = max(float(score_bounds(attention, config).max()) + room - _LARGEST_EXPONENT, 0.0)
    return shift if shift <= _LARGEST_SHIFT else None


def _masked(
    scores: Tensor, attention: Attention, config: VitConfig, diagonal: float, shift: float
) -> Tensor:
    """Scores lowered by ``shift``; with Locality Self-Attention, a token's own masked out."""
    tokens, heads = scores.shape[-1], config.num_heads
    mask = np.full((tokens, tokens), -shift)
    if config.lsa:
        np.fill_diagonal(mask, diagonal)
    if not mask.any():
        return scores
    if attention.key is not None:
        return scores + constant(mask)
    # The heads are rows beside each other: one mask for all of them is a quarter of a megabyte
    # less for 144 tokens.
    by_head = tf.reshape(scores, (-1, tokens, heads, tokens)) + constant(mask[:, None, :])
    return tf.reshape(by_head, (-1, tokens * heads, tokens))
