"""Build the Keras model: raw pixels in, logits out."""

from __future__ import annotations

import keras
from keras import layers

from vitsd.config import VitConfig
from vitsd.model.layers import LocalitySelfAttention, PositionEmbedding, ShiftedPatchTokenization


def build_vit(
    config: VitConfig,
    *,
    mean=0.0,
    variance=1.0,
    augmentation: list[layers.Layer] | None = None,
    dtype=None,
    name: str = "vit",
) -> keras.Model:
    """A Vision Transformer for small datasets as a Keras functional model.

    Args:
        config: the architecture.
        mean, variance: normalisation statistics per channel, in 0-255 pixel units (see ``vitsd.data.dataset.pixel_statistics``).
        augmentation: layers that run between resizing and tokenization. Keras' random layers act unless told otherwise:
            call such a model with ``training=False`` (``fit``, ``evaluate`` and ``predict`` do what is right by themselves).
        dtype: dtype or dtype policy of the layers (``"mixed_float16"`` for mixed precision); logits are always float32.

    Returns:
        A model from ``(batch, *config.input_size)`` images with values 0-255 to ``(batch, num_classes)`` logits. Layer
        names are fixed (``block_0_attention``, ``head_0`` ...): the exporter finds the weights by them.
    """
    policy = keras.dtype_policies.get(dtype) if dtype else keras.config.dtype_policy()
    epsilon = config.layer_norm_epsilon

    def norm(tokens, name):
        return layers.LayerNormalization(epsilon=epsilon, dtype=policy, name=name)(tokens)

    def dense(inputs, units, dropout, name):
        outputs = layers.Dense(units, activation=config.activation, dtype=policy, name=name)(inputs)
        return (
            layers.Dropout(dropout, dtype=policy, name=f"{name}_dropout")(outputs)
            if dropout
            else outputs
        )

    def add_branch(stream, branch, rate, name):
        if (
            rate
        ):  # stochastic depth: the whole branch of an image is dropped, so one mask value per image
            branch = layers.Dropout(
                rate, noise_shape=(None, 1, 1), dtype=policy, name=f"{name}_drop_path"
            )(branch)
        return layers.Add(dtype=policy, name=f"{name}_add")([stream, branch])

    pixels = keras.Input(config.input_size, name="images")
    mean, variance = (
        list(map(float, v)) if hasattr(v, "__len__") else [float(v)] for v in (mean, variance)
    )
    channels = config.input_size[-1]
    mean, variance = (v * channels if len(v) == 1 else v for v in (mean, variance))
    images = layers.Normalization(
        mean=mean, variance=variance, dtype="float32", name="normalization"
    )(pixels)
    if config.input_size[:2] != (config.image_size, config.image_size):
        images = layers.Resizing(
            config.image_size,
            config.image_size,
            data_format="channels_last",
            dtype="float32",
            name="resizing",
        )(images)
    for layer in augmentation or ():
        images = layer(images)

    tokens = ShiftedPatchTokenization(
        config.patch_size,
        config.hidden_dim,
        shifted=config.spt,
        epsilon=epsilon,
        dtype=policy,
        name="tokenization",
    )(images)
    tokens = PositionEmbedding(dtype=policy, name="position_embedding")(tokens)
    for i in range(config.num_layers):
        rate = config.stochastic_depth * (i + 1) / config.num_layers
        branch = LocalitySelfAttention(
            config.num_heads,
            config.key_dim,
            dropout=config.attention_dropout,
            local=config.lsa,
            dtype=policy,
            name=f"block_{i}_attention",
        )(norm(tokens, f"block_{i}_norm_1"))
        tokens = add_branch(tokens, branch, rate, f"block_{i}_attention")
        branch = norm(tokens, f"block_{i}_norm_2")
        for j, units in enumerate(config.mlp_units):
            branch = dense(branch, units, config.mlp_dropout, f"block_{i}_mlp_{j}")
        tokens = add_branch(tokens, branch, rate, f"block_{i}_mlp")
    features = norm(tokens, "norm")
    if config.pooling == "flatten":
        features = layers.Flatten(dtype=policy, name="pooling")(features)
    else:
        features = layers.GlobalAveragePooling1D(dtype=policy, name="pooling")(features)
    if config.head_dropout:
        features = layers.Dropout(config.head_dropout, dtype=policy, name="pooling_dropout")(
            features
        )
    for i, units in enumerate(config.head_units):
        features = dense(features, units, config.head_dropout, f"head_{i}")
    logits = layers.Dense(config.num_classes, dtype="float32", name="logits")(features)
    return keras.Model(pixels, logits, name=name)
