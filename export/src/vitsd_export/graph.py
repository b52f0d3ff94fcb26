"""The inference graph: one function from images to logits, built from folded weights as constants.

It is the only graph that is exported; every format is converted from it. It keeps to operations that all converters and
engines know, with static shapes but for the batch, and runs on rank-2 tensors ``(batch * tokens, width)`` where it can.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vitsd_export.folding import Attention, Dense, FoldedVit
from vitsd_runtime.preprocessing import resize_matrix
from vitsd_runtime.spec import ModelSpec

INPUT_NAME = "images"
OUTPUT_NAME = "logits"
_MASK = -1e9
"""Added to a token's score for itself. As good as minus infinity in float; were the scores quantised, it would be their
range, all scores would round to one value, and attention turn uniform. So attention is kept in float (see converters)."""


def inference_module(folded: FoldedVit, spec: ModelSpec, embed_preprocessing: bool = False) -> tf.Module:
    """A ``tf.Module`` whose ``serving_default`` takes ``images`` and gives ``{"logits": ...}``; it has no variables.

    ``images`` is float32 ``(batch, image_size, image_size, channels)``, normalised and resized; with
    ``embed_preprocessing`` it is uint8 ``(batch, *input_size)`` and the graph normalises and resizes.
    """
    config = folded.config
    module = tf.Module()
    if embed_preprocessing:
        signature = tf.TensorSpec((None, *config.input_size), tf.uint8, name=INPUT_NAME)
    else:
        signature = tf.TensorSpec((None, config.image_size, config.image_size, config.input_size[2]), name=INPUT_NAME)

    @tf.function(input_signature=[signature])
    def serve(images):
        if embed_preprocessing:
            images = _preprocess(images, spec)
        return {OUTPUT_NAME: tf.identity(build_logits(images, folded), name=OUTPUT_NAME)}

    module.serve = serve
    return module


def build_logits(images: tf.Tensor, folded: FoldedVit) -> tf.Tensor:
    """Preprocessed float32 images to float32 logits ``(batch, num_classes)``."""
    config = folded.config
    tokens, width, epsilon = config.tokens, config.width, config.layer_norm_epsilon

    stream = _tokenize(images, folded)  # (batch * tokens, width), mean-free
    for i, block in enumerate(folded.blocks):
        if i > 0:  # the MLP before it ends in an activation, whose output is not centred
            stream = stream - _mean(stream)
        stream = stream + _attention(_unit_variance(stream, epsilon), block.attention, config)
        branch = _unit_variance(stream, epsilon)
        for layer in block.mlp:
            branch = _activate(_dense(branch, layer), config.activation)
        stream = stream + branch
    stream = _unit_variance(stream - _mean(stream), epsilon)

    features = tf.reshape(stream, (-1, tokens * width) if config.pooling == "flatten" else (-1, tokens, width))
    if config.pooling == "gap":
        features = tf.reduce_mean(features, axis=1)
    for layer in folded.head[:-1]:
        features = _activate(_dense(features, layer), config.activation)
    return _dense(features, folded.head[-1])


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


def _tokenize(images, folded: FoldedVit):
    config = folded.config
    patch, size = config.patch_size, config.image_size
    if config.spt:  # the order of vitsd.layers.ShiftedPatchTokenization
        half = patch // 2
        padded = tf.pad(images, ((0, 0), (half, half), (half, half), (0, 0)))
        corners = ((2 * half, 2 * half), (0, 2 * half), (2 * half, 0), (0, 0))
        shifted = [padded[:, top : top + size, left : left + size, :] for top, left in corners]
        images = tf.concat([images, *shifted], axis=3)
    # Flattens a patch in (row, column, channel) order, the order of the projection's rows.
    patches = tf.nn.space_to_depth(images, patch) if patch > 1 else images
    patches = tf.reshape(patches, (-1, folded.tokenization.kernel.shape[0]))
    if config.spt:
        patches = _unit_variance(patches - _mean(patches), config.layer_norm_epsilon)
    projected = _dense(patches, Dense(folded.tokenization.kernel, np.zeros(config.width)))
    # The projection's bias rides on the position embedding: one addition instead of two.
    positions = _constant(folded.position_embedding + folded.tokenization.bias)
    tokens = tf.reshape(projected, (-1, config.tokens, config.width)) + positions
    return tf.reshape(tokens, (-1, config.width))


def _attention(normed, attention: Attention, config):
    tokens, heads, width = config.tokens, config.num_heads, config.width
    if attention.key is None:
        # Keys and values are the tokens themselves, so the heads are stacked as rows and nothing is transposed.
        keys = values = tf.reshape(normed, (-1, tokens, width))
        queries = tf.reshape(_dense(normed, attention.query), (-1, tokens * heads, width))
        diagonal = np.repeat(np.eye(tokens), heads, axis=0)
    else:

        def split_heads(flat):
            return tf.transpose(tf.reshape(flat, (-1, tokens, heads, config.key_dim)), (0, 2, 1, 3))

        queries = split_heads(_dense(normed, attention.query))
        keys = split_heads(tf.matmul(normed, _constant(attention.key)))
        values = split_heads(tf.matmul(normed, _constant(attention.value)))
        diagonal = np.eye(tokens)
    scores = tf.matmul(queries, keys, transpose_b=True)
    if config.lsa:
        scores = scores + _constant(_MASK * diagonal)
    attended = tf.matmul(tf.nn.softmax(scores), values)
    if attention.key is not None:
        attended = tf.transpose(attended, (0, 2, 1, 3))
    return _dense(tf.reshape(attended, (-1, attention.output.kernel.shape[0])), attention.output)


def _dense(inputs, layer: Dense):
    outputs = tf.matmul(inputs, _constant(layer.kernel))
    return outputs + _constant(layer.bias) if layer.bias.any() else outputs


def _mean(values):
    return tf.reduce_mean(values, axis=-1, keepdims=True)


def _unit_variance(centred, epsilon: float):
    """LayerNorm without scale and shift, of values whose mean is zero already."""
    return centred * tf.math.rsqrt(_mean(tf.square(centred)) + epsilon)


def _activate(values, activation: str):
    if activation == "relu":
        return tf.nn.relu(values)
    # The erf form: TFLite's converter and onnxruntime recognise it and fuse it to their GELU. tf.nn.gelu itself now
    # lowers to Erfc, which tf2onnx 1.17 can't convert.
    return 0.5 * values * (1.0 + tf.math.erf(values * np.float32(np.sqrt(0.5))))


def _constant(array):
    return tf.constant(np.asarray(array, np.float32))
