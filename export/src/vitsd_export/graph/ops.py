"""Operations that both graphs are written in."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from vitsd_export.graph.folding import Convolution, Dense, DepthwiseConvolution
from vitsd_runtime.types import AnyArray

Tensor = Any
"""A ``tf.Tensor``, eager or of a graph; TensorFlow comes without types."""


def constant(array: AnyArray) -> Tensor:
    """A float32 constant."""
    return tf.constant(np.asarray(array, np.float32))


def dense(inputs: Tensor, layer: Dense, name: str) -> Tensor:
    """A dense layer in the scope ``name``; a bias of zeros is left out."""
    with tf.name_scope(name):
        outputs = tf.matmul(inputs, constant(layer.kernel))
        return outputs + constant(layer.bias) if layer.bias.any() else outputs


def convolution(images: Tensor, layer: Convolution, name: str) -> Tensor:
    """A convolution in the scope ``name``; a bias of zeros is left out."""
    with tf.name_scope(name):
        outputs = tf.nn.conv2d(images, constant(layer.kernel), layer.stride, "SAME")
        return outputs + constant(layer.bias) if layer.bias.any() else outputs


def depthwise_convolution(images: Tensor, layer: DepthwiseConvolution) -> Tensor:
    """A depthwise convolution."""
    kernel, strides = constant(layer.kernel[..., None]), (1, 1, 1, 1)
    return tf.nn.depthwise_conv2d(images, kernel, strides, "SAME") + constant(layer.bias)


def pool_tokens(tokens: Tensor, grid: int) -> Tensor:
    """The mean of every 2x2 tokens of images with ``grid`` tokens on a side.

    By sums, which XNNPACK runs in int8 too: for 64 tokens of 128 values on x86-64 they take 2
    microseconds, AVERAGE_POOL_2D 11 and MEAN 22.

    Returns:
        ``(batch, grid * grid / 4, hidden_dim)``, also where tokens of all images are rows.
    """
    size, half = tokens.shape[-1], grid // 2
    # A row and the one below, then a token and its neighbor.
    for pairs, length in ((half, grid * size), (half * half, size)):
        paired = tf.reshape(tokens, (-1, pairs, 2 * length))
        tokens = paired[..., :length] + paired[..., length:]
    return 0.25 * tokens


def mean(values: Tensor) -> Tensor:
    """Along the last axis, which stays with length 1."""
    return tf.reduce_mean(values, axis=-1, keepdims=True)


def relative_to_first(values: Tensor) -> Tensor:
    """Differences from the first value along the last axis.

    Each is exact to the rounding of itself, and all are zero where all values are equal: a mean and
    a deviation of them are as exact as the values differ, however large they are.
    """
    return values - values[..., :1]


def unit_variance(centered: Tensor, epsilon: float) -> Tensor:
    """LayerNorm without scale and shift, of values whose mean is zero already."""
    return centered * inverse_deviation(centered, epsilon)


def inverse_deviation(centered: Tensor, epsilon: float) -> Tensor:
    """``1 / sqrt(variance + epsilon)`` of values whose mean is zero already."""
    # Not tf.square: TFLite's SQUARE and SQUARED_DIFFERENCE have no fast int8 kernels, and MUL is
    # as fast in float.
    return tf.math.rsqrt(mean(centered * centered) + epsilon)


def activate(values: Tensor, activation: str) -> Tensor:
    """ReLU, GELU in its exact form, or nothing (linear)."""
    if activation == "linear":
        return values
    if activation == "relu":
        return tf.nn.relu(values)
    # The erf form: TFLite's converter and onnxruntime recognize it and fuse it to their GELU.
    # tf.nn.gelu itself now lowers to Erfc, which tf2onnx 1.17 can't convert.
    return 0.5 * values * (1.0 + tf.math.erf(values * np.float32(np.sqrt(0.5))))
