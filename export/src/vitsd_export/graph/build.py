"""The inference graph: one function from images to logits, built from folded weights as constants.

Every format is converted from it. It keeps to operations that all converters and engines know, with static shapes but for
the batch. What differs between engines is a :class:`Style`; all styles give the same logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from vitsd.config import VitConfig
from vitsd_export.graph.folding import Attention, Dense, FoldedVit, score_bounds
from vitsd_runtime.images.resizing import resize_matrix
from vitsd_runtime.spec import ModelSpec

INPUT_NAME = "images"
OUTPUT_NAME = "logits"
_MASK = -1e9
"""Added to a token's score for itself: as good as minus infinity in float. Quantised scores need a bounded one instead
(see ``Style.integer_masks``)."""
_LARGEST_EXPONENT = 85.0
"""exp(85) = 8e36: room for a factor of 40 before float32 overflows."""
_LARGEST_SHIFT = 50.0


Watch = Callable[[str, tf.Tensor], None]


@dataclass(frozen=True)
class Style:
    """How the graph writes what can be written in several equal ways.

    Measured on x86-64 with AVX-512, one thread (``make bench``).
    """

    exp_attention: bool = False
    """Softmax as exp, sum and one division of the attended values, where the weights prove that exp can't overflow. Saves
    the search for each row's largest score, and the division of the whole score matrix. In onnxruntime always faster; in
    XNNPACK where rows leave a vector register partly empty, which its softmax handles slowly (36 tokens: 15 % of the
    whole model; 64 or 144 tokens: nothing)."""
    integer_masks: tuple[float, ...] | None = None
    """For integer-only files, a bounded mask for each block; the batch is then fixed at 1, so that the products of
    attention are rank-2 products of two activations. TFLite runs those as FULLY_CONNECTED, in int8 nine times faster than
    BATCH_MATMUL."""


def inference_module(
    folded: FoldedVit,
    spec: ModelSpec,
    embed_preprocessing: bool = False,
    style: Style | None = None,
) -> tf.Module:
    """A ``tf.Module`` whose ``serving_default`` takes ``images`` and gives ``{"logits": ...}``; it has no variables.

    ``images`` is float32 ``(batch, image_size, image_size, channels)``, normalised and resized; with
    ``embed_preprocessing`` it is uint8 ``(batch, *input_size)`` and the graph normalises and resizes.
    """
    config, style = folded.config, style or Style()
    module = tf.Module()
    batch = 1 if style.integer_masks else None
    if embed_preprocessing:
        signature = tf.TensorSpec((batch, *config.input_size), tf.uint8, name=INPUT_NAME)
    else:
        signature = tf.TensorSpec(
            (batch, config.image_size, config.image_size, config.input_size[2]), name=INPUT_NAME
        )

    @tf.function(input_signature=[signature])
    def serve(images):
        if embed_preprocessing:
            images = _preprocess(images, spec)
        return {OUTPUT_NAME: tf.identity(build_logits(images, folded, style), name=OUTPUT_NAME)}

    module.serve = serve
    return module


def bounded_masks(images: np.ndarray, folded: FoldedVit) -> tuple[float, ...]:
    """For each block the least negative mask that leaves a token at most one millionth of its attention to itself.

    In float it is as good as minus infinity, and it does not take the whole range of quantised scores, as -1e9 would.

    Args:
        images: preprocessed float32 calibration images ``(n, ...)``.
    """
    config = folded.config
    excess: dict[str, float] = {}

    def watch(name: str, tensor: tf.Tensor) -> None:
        excess[name] = max(
            excess.get(name, -np.inf), _own_excess(tensor.numpy().astype(np.float64), config)
        )

    for start in range(0, len(images), 16):
        build_logits(tf.constant(images[start : start + 16]), folded, watch=watch)
    return tuple(
        float(np.floor(np.log(1e-6) - excess[f"block_{i}_scores"]))
        for i in range(config.num_layers)
    )


def _own_excess(scores: np.ndarray, config: VitConfig) -> float:
    """By how much a token's score for itself exceeds the logarithm of the summed exponentials of all others, at most."""
    if scores.ndim == 3:
        scores = scores.reshape(-1, config.tokens, config.num_heads, config.tokens).transpose(
            0, 2, 1, 3
        )
    own = np.einsum("bhtt->bht", scores)
    others = np.where(np.eye(config.tokens, dtype=bool), -np.inf, scores)
    best = others.max(axis=-1, keepdims=True)
    return float((own - np.log(np.exp(others - best).sum(axis=-1)) - best[..., 0]).max())


def dense_layers(folded: FoldedVit) -> Iterator[tuple[str, np.ndarray]]:
    """Names and kernels of the dense layers, in the order of the graph. A layer's operations are named after it."""
    yield "tokenization", folded.tokenization.kernel
    for i, block in enumerate(folded.blocks):
        attention = block.attention
        yield f"block_{i}_query", attention.query.kernel
        if attention.key is not None:
            yield f"block_{i}_key", attention.key.kernel
            yield f"block_{i}_value", attention.value.kernel
        yield f"block_{i}_output", attention.output.kernel
        for j, layer in enumerate(block.mlp):
            yield f"block_{i}_mlp_{j}", layer.kernel
    for i, layer in enumerate(folded.head[:-1]):
        yield f"head_{i}", layer.kernel
    yield "logits", folded.head[-1].kernel


def build_logits(
    images: tf.Tensor,
    folded: FoldedVit,
    style: Style | None = None,
    watch: Watch = lambda name, tensor: None,
) -> tf.Tensor:
    """Preprocessed float32 images to float32 logits ``(batch, num_classes)``.

    ``watch`` is called with the names and values of the attention scores before mask and softmax, ``block_0_scores`` ...,
    ``(batch, tokens * heads, tokens)`` or ``(batch, heads, tokens, tokens)``.
    """
    config, style = folded.config, style or Style()
    tokens, hidden_dim, epsilon = config.tokens, config.hidden_dim, config.layer_norm_epsilon
    rank3 = style.integer_masks is None

    stream = _tokenize(images, folded, integer=not rank3)  # (batch, tokens, hidden_dim), mean-free
    if not rank3:
        stream = tf.reshape(stream, (tokens, hidden_dim))
    for i, block in enumerate(folded.blocks):
        if rank3:
            normed = _unit_variance(stream, epsilon)
            attended = _attention(normed, block.attention, config, style, f"block_{i}", watch)
        else:
            attended = _integer_attention(
                stream, block.attention, config, style.integer_masks[i], f"block_{i}"
            )
        middle = stream + attended
        branch = _unit_variance(middle, epsilon)
        for j, layer in enumerate(block.mlp):
            branch = _activate(_dense(branch, layer, f"block_{i}_mlp_{j}"), config.activation)
        # The MLP ends in an activation, whose output is not centred. Centred before it is added, not after, because it is
        # smaller than the stream, and so is its rounding in int8.
        branch = branch - _mean(branch)
        # For the same reason, both branches are added up before they join the stream that the next block reads.
        stream = middle + branch if rank3 else stream + (attended + branch)
    stream = _unit_variance(stream, epsilon)

    if config.pooling == "flatten":
        features = tf.reshape(stream, (-1, tokens * hidden_dim))
    else:
        features = tf.reduce_mean(stream, axis=-2, keepdims=not rank3)
    for i, layer in enumerate(folded.head[:-1]):
        features = _activate(_dense(features, layer, f"head_{i}"), config.activation)
    return _dense(features, folded.head[-1], "logits")


def _preprocess(images, spec: ModelSpec):
    """Normalise, then bilinear resize as two matrix products: exactly what the runtime does in NumPy."""
    height, width, channels = spec.input_size
    size = spec.image_size
    scale, offset = spec.normalization()
    images = tf.cast(images, tf.float32) * _constant(scale) + _constant(offset)
    if height != size:
        images = tf.reshape(images, (-1, height, width * channels))
        images = tf.matmul(_constant(resize_matrix(height, size)), images)
        images = tf.reshape(images, (-1, size, width, channels))
    if width != size:
        images = tf.matmul(_constant(resize_matrix(width, size)), images)
    return images


def _tokenize(images, folded: FoldedVit, integer: bool):
    config = folded.config
    patch, size, tokens = config.patch_size, config.image_size, config.tokens
    kernel = folded.tokenization.kernel
    with tf.name_scope("patches"):
        if not config.spt:
            # Flattens a patch in (row, column, channel) order, the order of the projection's rows.
            patches = _space_to_depth(images, patch)
        elif patch % 2 == 0:
            # Shifted by half a patch, the image's four copies have the same patches, on a grid with one row and column more.
            half = patch // 2
            grid = _space_to_depth(
                tf.pad(images, ((0, 0), (half, half), (half, half), (0, 0))), patch
            )
            corners = (grid[:, 1:, 1:], grid[:, :-1, 1:], grid[:, 1:, :-1], grid[:, :-1, :-1])
            patches = tf.concat([_space_to_depth(images, patch), *corners], axis=3)
            # The features come image by image; the projection's rows have the five images within a pixel.
            per_pixel = kernel.reshape(patch * patch, 5, config.input_size[2], config.hidden_dim)
            kernel = per_pixel.transpose(1, 0, 2, 3).reshape(kernel.shape)
        else:
            half = patch // 2
            padded = tf.pad(images, ((0, 0), (half, half), (half, half), (0, 0)))
            offsets = ((2 * half, 2 * half), (0, 2 * half), (2 * half, 0), (0, 0))
            shifted = [padded[:, top : top + size, left : left + size, :] for top, left in offsets]
            patches = _space_to_depth(tf.concat([images, *shifted], axis=3), patch)
        patches = tf.reshape(patches, (-1, tokens, kernel.shape[0]))
        if config.spt:
            patches = patches - _mean(patches)
            if config.input_size[2] == 1 and not integer:
                # A flat patch of a grey image has no variance but the rounding of its mean, and the norm makes that a
                # thousand times larger: each CPU would give other logits. (Colours differ once they are normalised.)
                patches = patches - _mean(patches)
            normalise = _unit_variance_twice if integer else _unit_variance
            patches = normalise(patches, config.layer_norm_epsilon)
    projected = _dense(patches, Dense(kernel, np.zeros(config.hidden_dim)), "tokenization")
    # The projection's bias rides on the position embedding: one addition instead of two.
    return projected + _constant(folded.position_embedding + folded.tokenization.bias)


def _space_to_depth(images, block: int):
    return tf.nn.space_to_depth(images, block) if block > 1 else images


def _attention(
    normed, attention: Attention, config: VitConfig, style: Style, name: str, watch: Watch
):
    tokens, heads, hidden_dim = config.tokens, config.num_heads, config.hidden_dim
    if attention.key is None:
        # Keys and values are the tokens themselves, so the heads are stacked as rows and nothing is transposed.
        keys = values = normed
        queries = tf.reshape(
            _dense(normed, attention.query, f"{name}_query"), (-1, tokens * heads, hidden_dim)
        )
    else:

        def split_heads(flat):
            return tf.transpose(tf.reshape(flat, (-1, tokens, heads, config.key_dim)), (0, 2, 1, 3))

        queries = split_heads(_dense(normed, attention.query, f"{name}_query"))
        keys = split_heads(_dense(normed, attention.key, f"{name}_key"))
        values = split_heads(_dense(normed, attention.value, f"{name}_value"))
    scores = tf.matmul(queries, keys, transpose_b=True)
    watch(f"{name}_scores", scores)
    shift = _exp_shift(attention, config) if style.exp_attention else None
    masked = _masked(scores, config, attention, shift or 0.0)
    if shift is None:
        attended = tf.matmul(tf.nn.softmax(masked), values)
    else:
        weights = tf.exp(masked)
        # In a row whose scores all underflow the sum would be 0.
        attended = tf.matmul(weights, values) * (
            1.0 / (tf.reduce_sum(weights, axis=-1, keepdims=True) + 1e-30)
        )
    if attention.key is not None:
        attended = tf.transpose(attended, (0, 2, 1, 3))
    return _dense(
        tf.reshape(attended, (-1, tokens, attention.output.kernel.shape[0])),
        attention.output,
        f"{name}_output",
    )


def _exp_shift(attention: Attention, config: VitConfig) -> float | None:
    """What to subtract from all scores so that neither exp nor the sums of it can overflow; None: too much.

    Too much, because a row with no score above ``shift - 87`` would underflow as a whole.
    """
    # The sums have as many terms as tokens, and normalised values are at most sqrt(hidden_dim).
    room = np.log(config.tokens * np.sqrt(config.hidden_dim))
    shift = max(float(score_bounds(attention, config).max()) + room - _LARGEST_EXPONENT, 0.0)
    return shift if shift <= _LARGEST_SHIFT else None


def _masked(scores, config: VitConfig, attention: Attention, shift: float):
    """Scores with a token's own taken away, and all lowered by ``shift``."""
    tokens, heads = config.tokens, config.num_heads
    mask = np.full((tokens, tokens), -shift)
    if config.lsa:
        np.fill_diagonal(mask, _MASK)
    if not mask.any():
        return scores
    if attention.key is not None:
        return scores + _constant(mask)
    # The heads are rows beside each other: one mask for all of them is a quarter of a megabyte less for 144 tokens.
    by_head = tf.reshape(scores, (-1, tokens, heads, tokens)) + _constant(mask[:, None, :])
    return tf.reshape(by_head, (-1, tokens * heads, tokens))


def _integer_attention(stream, attention: Attention, config: VitConfig, mask: float, name: str):
    """Attention over one image's ``(tokens, hidden_dim)``, of operations that have fast integer kernels.

    TFLite computes ``a @ b`` as FULLY_CONNECTED where ``b`` is the transpose of a tensor. The converter fuses a transpose
    into the product that follows, and makes it a BATCH_MATMUL again; so something stands between the two.
    """
    tokens, heads, hidden_dim = config.tokens, config.num_heads, config.hidden_dim
    inverse = _inverse_deviation(stream, config.layer_norm_epsilon)
    normed = stream * inverse
    queries = _dense(normed, attention.query, f"{name}_query")
    diagonal = mask * np.eye(tokens)
    if attention.key is None:
        weights = _masked_softmax(
            tf.reshape(queries, (tokens * heads, hidden_dim)),
            normed,
            np.repeat(diagonal, heads, axis=0),
            config,
            name,
        )
        with tf.name_scope(f"{name}_attended"):
            values = tf.transpose(stream) * tf.reshape(inverse, (1, tokens))
            attended = tf.matmul(weights, values, transpose_b=True)
        attended = tf.reshape(attended, (tokens, heads * hidden_dim))
    else:
        keys = _dense(normed, attention.key, f"{name}_key")
        values = tf.transpose(_dense(normed, attention.value, f"{name}_value"))
        parts = []
        for q, k, v in zip(
            tf.split(queries, heads, axis=1),
            tf.split(keys, heads, axis=1),
            tf.split(values, heads, axis=0),
            strict=True,
        ):
            weights = _masked_softmax(q, k, diagonal, config, name)
            with tf.name_scope(f"{name}_attended"):
                parts.append(tf.matmul(weights, v, transpose_b=True))
        attended = tf.concat(parts, axis=1)
    return _dense(attended, attention.output, f"{name}_output")


def _masked_softmax(queries, keys, mask: np.ndarray, config: VitConfig, name: str):
    with tf.name_scope(f"{name}_scores"):
        scores = tf.matmul(queries, keys, transpose_b=True)
        return tf.nn.softmax(scores + _constant(mask) if config.lsa else scores)


def _dense(inputs, layer: Dense, name: str):
    with tf.name_scope(name):
        outputs = tf.matmul(inputs, _constant(layer.kernel))
        return outputs + _constant(layer.bias) if layer.bias.any() else outputs


def _mean(values):
    return tf.reduce_mean(values, axis=-1, keepdims=True)


def _unit_variance(centred, epsilon: float):
    """LayerNorm without scale and shift, of values whose mean is zero already."""
    return centred * _inverse_deviation(centred, epsilon)


def _inverse_deviation(centred, epsilon: float):
    # Not tf.square: TFLite's SQUARE and SQUARED_DIFFERENCE have no fast int8 kernels, and MUL is as fast in float.
    return tf.math.rsqrt(_mean(centred * centred) + epsilon)


def _unit_variance_twice(centred, epsilon: float):
    """The same as :func:`_unit_variance`, but exact to a quantisation step where variances differ by orders of magnitude.

    One int8 tensor can't hold the inverse deviation of a flat patch and of a busy one with the same relative precision.
    The second factor, 1 but for rounding, repairs what the first lost.
    """
    with tf.name_scope("first_norm"):
        first = _inverse_deviation(centred, epsilon)
        scaled = centred * first
    with tf.name_scope("second_norm"):
        second = tf.math.rsqrt(_mean(scaled * scaled) + epsilon * (first * first))
    return scaled * second


def _activate(values, activation: str):
    if activation == "relu":
        return tf.nn.relu(values)
    # The erf form: TFLite's converter and onnxruntime recognise it and fuse it to their GELU. tf.nn.gelu itself now
    # lowers to Erfc, which tf2onnx 1.17 can't convert.
    return 0.5 * values * (1.0 + tf.math.erf(values * np.float32(np.sqrt(0.5))))


def _constant(array):
    return tf.constant(np.asarray(array, np.float32))
