"""Layers that see tokens as a grid: what is near belongs together, which few images can't teach.

Sources: A. Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers",
arXiv:2104.05704 (tokens by convolutions, here with strides instead of max pooling); W. Wang et al.,
"PVT v2", arXiv:2106.13797 (a depthwise convolution in the MLP, here beside what it convolves);
B. Heo et al., "Rethinking Spatial Dimensions of Vision Transformers", arXiv:2103.16302 (fewer
tokens in later blocks, here by their mean).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from vitsd.config import BATCH_NORM_EPSILON, convolution_strides
from vitsd.model import names

Tensor = Any
"""A tensor of Keras' backend."""
Shape = tuple[Any, ...]
"""Sizes of a tensor's axes; None where a size is not known."""


@keras.saving.register_keras_serializable(package="vitsd")
class ConvolutionalTokenization(layers.Layer):
    """Turn images into tokens by 3x3 convolutions, each with batch normalization.

    All but the last, whose filters are a token's values, are followed by ReLU. The last ones have
    stride 2, as many as it takes for a token to every ``patch_size`` pixels; those before have
    stride 1. Zeros are around the images ("same" padding).

    Input: float ``(batch, height, width, channels)``; both sides are multiples of ``patch_size``.
    Output: float ``(batch, tokens, hidden_dim)``, tokens in row-major order.

    Args:
        filters: of the convolutions before the last.
        patch_size: pixels from one token to the next, a power of 2.
        hidden_dim: length of a token.
        **kwargs: of a Keras layer.
    """

    def __init__(
        self, filters: Sequence[int], patch_size: int, hidden_dim: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.filters = tuple(filters)
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        strides = convolution_strides(len(self.filters) + 1, patch_size)
        units = (*self.filters, hidden_dim)
        self.convolutions = [
            layers.Conv2D(
                size,
                3,
                strides=stride,
                padding="same",
                use_bias=False,
                data_format="channels_last",
                dtype=self.dtype_policy,
                name=names.convolution(i),
            )
            for i, (size, stride) in enumerate(zip(units, strides, strict=True))
        ]
        self.norms = [
            layers.BatchNormalization(
                momentum=0.9,
                epsilon=BATCH_NORM_EPSILON,
                dtype=self.dtype_policy,
                name=names.batch_norm(i),
            )
            for i in range(len(units))
        ]

    def build(self, input_shape: Shape) -> None:
        """Make the weights, for images ``(batch, height, width, channels)``."""
        shape = input_shape
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            norm.build(shape)

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Tokens of images."""
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            images = norm(convolution(ops.relu(images) if i else images), training=training)
        _, rows, columns, _ = images.shape
        return ops.reshape(images, (-1, rows * columns, self.hidden_dim))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, tokens, hidden_dim)``."""
        height, width = input_shape[1], input_shape[2]
        tokens = (height // self.patch_size) * (width // self.patch_size)
        return (input_shape[0], tokens, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
        }


@keras.saving.register_keras_serializable(package="vitsd")
class TokenConvolution(layers.Layer):
    """Add a depthwise 3x3 convolution of the square grid of tokens to them, then an activation.

    Input and output: float ``(batch, tokens, units)``, tokens in row-major order; zeros are around
    the grid.

    Args:
        activation: name of one of Keras' activations.
        **kwargs: of a Keras layer.
    """

    def __init__(self, activation: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activation

    def build(self, input_shape: Shape) -> None:
        """Make the weights, for ``(batch, tokens, units)``."""
        units = input_shape[2]
        self.kernel = self.add_weight(name="kernel", shape=(3, 3, units, 1))
        self.bias = self.add_weight(name="bias", shape=(units,), initializer="zeros")

    def call(self, tokens: Tensor) -> Tensor:
        """Activated sums."""
        _, count, units = tokens.shape
        side = math.isqrt(count)
        grid = ops.reshape(tokens, (-1, side, side, units))
        convolved = ops.depthwise_conv(
            grid, self.kernel, padding="same", data_format="channels_last"
        )
        sums = tokens + ops.reshape(convolved, (-1, count, units)) + self.bias
        return keras.activations.get(self.activation)(sums)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "activation": self.activation}


@keras.saving.register_keras_serializable(package="vitsd")
class TokenPooling(layers.Layer):
    """Make the mean of every 2x2 tokens of the square grid one token.

    Input: float ``(batch, tokens, hidden_dim)``, tokens in row-major order, an even number on a
    side. Output: float ``(batch, tokens / 4, hidden_dim)``.
    """

    def call(self, tokens: Tensor) -> Tensor:
        """Means."""
        _, count, size = tokens.shape
        half = math.isqrt(count) // 2
        grid = ops.reshape(tokens, (-1, half, 2, half, 2, size))
        return ops.reshape(ops.mean(grid, axis=(2, 4)), (-1, half * half, size))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """A quarter of the tokens."""
        return (input_shape[0], input_shape[1] // 4, input_shape[2])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        # Keras can't derive it where the dtype is given as a policy object.
        config: dict[str, Any] = super().get_config()
        return config
