"""Build the Keras model: raw pixels in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from vitsd.config import VitConfig
from vitsd.model import names
from vitsd.model.convolutions import ConvolutionalTokenization, TokenConvolution, TokenPooling
from vitsd.model.layers import LocalitySelfAttention, PositionEmbedding, ShiftedPatchTokenization

Tensor = Any
"""A symbolic tensor of Keras."""


def build_vit(
    config: VitConfig,
    *,
    mean: npt.ArrayLike = 0.0,
    variance: npt.ArrayLike = 1.0,
    augmentation: Sequence[layers.Layer] = (),
    dtype: Any = None,
    name: str = "vit",
) -> keras.Model:
    """A Vision Transformer for small datasets as a Keras functional model.

    Args:
        config: the architecture.
        mean: of the pixels, a number or one per channel, in 0-255 pixel units (see
            :func:`vitsd.data.statistics.pixel_statistics`).
        variance: of the pixels, likewise, in squared pixel units.
        augmentation: layers that run between resizing and tokenization. Keras' random layers are
            active by default: call such a model with ``training=False`` (``fit``, ``evaluate`` and
            ``predict`` pass it themselves).
        dtype: dtype or dtype policy of the layers (``"mixed_float16"`` for mixed precision).
        name: of the model.

    Returns:
        A model from ``(batch, *config.input_size)`` images with values 0-255 to float32 logits
        ``(batch, num_classes)``. Layer names are those of :mod:`vitsd.model.names`.
    """
    policy = keras.dtype_policies.get(dtype) if dtype else keras.config.dtype_policy()
    make = _LayerFactory(config, policy)
    pixels = keras.Input(config.input_size, name="images")
    images = _preprocess(pixels, config, mean, variance)
    for layer in augmentation:
        images = layer(images)
    tokens = make.tokens(images)
    for block in range(config.num_layers):
        if config.pools_before(block):
            tokens = TokenPooling(dtype=policy, name=names.TOKEN_POOLING)(tokens)
        tokens = make.block(tokens, block)
    logits = make.head(make.norm(tokens, names.FINAL_NORM))
    return keras.Model(pixels, logits, name=name)


def _preprocess(
    pixels: Tensor, config: VitConfig, mean: npt.ArrayLike, variance: npt.ArrayLike
) -> Tensor:
    """Normalize, then resize, in float32 whatever the policy."""
    channels, size = config.input_size[2], config.image_size
    images = layers.Normalization(
        mean=_per_channel(mean, channels),
        variance=_per_channel(variance, channels),
        dtype="float32",
        name=names.NORMALIZATION,
    )(pixels)
    if config.input_size[:2] == (size, size):
        return images
    resizing = layers.Resizing(
        size, size, data_format="channels_last", dtype="float32", name=names.RESIZING
    )
    return resizing(images)


def _per_channel(value: npt.ArrayLike, channels: int) -> list[float]:
    values: list[float] = np.broadcast_to(np.asarray(value, np.float64), channels).tolist()
    return values


class _LayerFactory:
    """Makes the layers of one model: they share a config and a dtype policy."""

    def __init__(self, config: VitConfig, policy: Any) -> None:
        self._config, self._policy = config, policy

    def tokens(self, images: Tensor) -> Tensor:
        position = PositionEmbedding(dtype=self._policy, name=names.POSITION_EMBEDDING)
        return position(self._tokenization()(images))

    def _tokenization(self) -> layers.Layer:
        config = self._config
        common = {"dtype": self._policy, "name": names.TOKENIZATION}
        if config.stem_filters:
            return ConvolutionalTokenization(
                config.stem_filters, config.patch_size, config.hidden_dim, **common
            )
        return ShiftedPatchTokenization(
            config.patch_size,
            config.hidden_dim,
            shifted=config.spt,
            epsilon=config.layer_norm_epsilon,
            **common,
        )

    def block(self, tokens: Tensor, block: int) -> Tensor:
        config = self._config
        drop_path = config.stochastic_depth * (block + 1) / config.num_layers
        attention = LocalitySelfAttention(
            config.num_heads,
            config.key_dim,
            dropout=config.attention_dropout,
            local=config.lsa,
            dtype=self._policy,
            name=names.attention(block),
        )
        branch = attention(self.norm(tokens, names.attention_norm(block)))
        tokens = self._add_branch(tokens, branch, drop_path, names.attention(block))
        branch = self._mlp(self.norm(tokens, names.mlp_norm(block)), block)
        return self._add_branch(tokens, branch, drop_path, names.mlp_branch(block))

    def _mlp(self, tokens: Tensor, block: int) -> Tensor:
        config = self._config
        for i, (units, activation) in enumerate(
            zip(config.mlp_units, config.mlp_activations, strict=True)
        ):
            name = names.mlp(block, i)
            if i == 0 and config.mlp_convolution:
                convolution = TokenConvolution(
                    activation, dtype=self._policy, name=names.mlp_convolution(block)
                )
                tokens = convolution(self._dense(tokens, units, "linear", name))
            else:
                tokens = self._dense(tokens, units, activation, name)
            tokens = self._dropout(tokens, config.mlp_dropout, names.dropout(name))
        return tokens

    def head(self, tokens: Tensor) -> Tensor:
        config = self._config
        pooling = layers.Flatten if config.pooling == "flatten" else layers.GlobalAveragePooling1D
        features = pooling(dtype=self._policy, name=names.POOLING)(tokens)
        features = self._dropout(features, config.head_dropout, names.dropout(names.POOLING))
        for i, units in enumerate(config.head_units):
            features = self._dense(features, units, config.activation, names.head(i))
            features = self._dropout(features, config.head_dropout, names.dropout(names.head(i)))
        return layers.Dense(config.num_classes, dtype="float32", name=names.LOGITS)(features)

    def norm(self, tokens: Tensor, name: str) -> Tensor:
        layer = layers.LayerNormalization(
            epsilon=self._config.layer_norm_epsilon, dtype=self._policy, name=name
        )
        return layer(tokens)

    def _dense(self, inputs: Tensor, units: int, activation: str, name: str) -> Tensor:
        return layers.Dense(units, activation=activation, dtype=self._policy, name=name)(inputs)

    def _add_branch(self, stream: Tensor, branch: Tensor, drop_path: float, name: str) -> Tensor:
        # Stochastic depth drops the whole branch of an image: one mask value per image.
        shape = (None, 1, 1)
        branch = self._dropout(branch, drop_path, names.drop_path(name), noise_shape=shape)
        return layers.Add(dtype=self._policy, name=names.add(name))([stream, branch])

    def _dropout(self, inputs: Tensor, rate: float, name: str, **options: Any) -> Tensor:
        if not rate:
            return inputs
        return layers.Dropout(rate, dtype=self._policy, name=name, **options)(inputs)
