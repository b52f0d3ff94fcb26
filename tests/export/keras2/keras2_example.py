"""The public example's model in legacy Keras 2, saved as it saves its SavedModels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers


class Tokenization(layers.Layer):
    """Shifted (or, ``vanilla``, plain) patches to tokens; like the example, returns patches too."""

    def __init__(self, image_size, patch_size, width, vanilla):
        super().__init__()
        self.image_size, self.patch_size, self.vanilla = image_size, patch_size, vanilla
        self.flatten_patches = layers.Reshape(((image_size // patch_size) ** 2, -1))
        self.projection = layers.Dense(width)
        self.layer_norm = layers.LayerNormalization(epsilon=1e-6)

    def call(self, images):
        if not self.vanilla:
            rest, half = self.image_size - self.patch_size // 2, self.patch_size // 2
            views = [images]
            for top, left in ((half, half), (0, half), (half, 0), (0, 0)):
                cropped = tf.image.crop_to_bounding_box(images, top, left, rest, rest)
                padded = tf.image.pad_to_bounding_box(
                    cropped, half - top, half - left, self.image_size, self.image_size
                )
                views.append(padded)
            images = tf.concat(views, -1)
        window = [1, self.patch_size, self.patch_size, 1]
        patches = tf.image.extract_patches(images, window, window, [1, 1, 1, 1], "VALID")
        flat = self.flatten_patches(patches)
        return self.projection(flat if self.vanilla else self.layer_norm(flat)), patches


class Positions(layers.Layer):
    def __init__(self, tokens, width):
        super().__init__()
        self.position_embedding = layers.Embedding(tokens, width)
        self.positions = tf.range(tokens)

    def call(self, tokens):
        return tokens + self.position_embedding(self.positions)


class LocalAttention(layers.MultiHeadAttention):
    def __init__(self, tau_is_variable, **options):
        super().__init__(**options)
        tau = math.sqrt(float(self._key_dim))
        # Not its initial value, as after training.
        self.tau = tf.Variable(1.25 * tau, trainable=True, name="tau") if tau_is_variable else tau

    def _compute_attention(self, query, key, value, attention_mask=None, training=None):
        scores = tf.einsum(self._dot_product_equation, key, query / self.tau)
        weights = self._dropout_layer(
            self._masked_softmax(scores, attention_mask), training=training
        )
        return tf.einsum(self._combine_equation, weights, value), weights


@dataclasses.dataclass(frozen=True)
class Options:
    """Of the model; the defaults make a small one."""

    image_size: int = 24
    patch_size: int = 4
    width: int = 32
    depth: int = 1
    heads: int = 4
    classes: int = 10
    units: tuple[int, ...] = (64, 32)
    head: tuple[int, ...] = (64, 48)
    channels: int = 1
    tau_is_variable: bool = True
    vanilla: bool = False
    raw_images: np.ndarray | None = None
    """uint8; the model normalizes them by their own statistics and resizes them."""
    activation: Callable[[tf.Tensor], tf.Tensor] = tf.nn.gelu
    final_bias: bool = True


def build(options: Options) -> tf_keras.Model:
    tokens = (options.image_size // options.patch_size) ** 2
    mask = tf.cast([1 - tf.eye(tokens)], tf.int8)

    def mlp(stream, sizes, rate):
        for size in sizes:
            stream = layers.Dropout(rate)(layers.Dense(size, activation=options.activation)(stream))
        return stream

    if options.raw_images is None:
        inputs = stream = tf_keras.Input((options.image_size, options.image_size, options.channels))
    else:
        inputs = tf_keras.Input(options.raw_images.shape[1:])
        normalization = layers.Normalization()
        normalization.adapt(options.raw_images)
        preprocessing = tf_keras.Sequential(
            [
                normalization,
                layers.Resizing(options.image_size, options.image_size),
                layers.RandomFlip("horizontal"),
            ]
        )
        stream = preprocessing(inputs)
    size, patch_size = options.image_size, options.patch_size
    stream, _ = Tokenization(size, patch_size, options.width, options.vanilla)(stream)
    stream = Positions(tokens, options.width)(stream)
    for _ in range(options.depth):
        normed = layers.LayerNormalization(epsilon=1e-6)(stream)
        sizes = {"num_heads": options.heads, "key_dim": options.width, "dropout": 0.1}
        if options.vanilla:
            attended = layers.MultiHeadAttention(**sizes)(normed, normed)
        else:
            attended = LocalAttention(options.tau_is_variable, **sizes)(
                normed, normed, attention_mask=mask
            )
        middle = layers.Add()([attended, stream])
        branch = mlp(layers.LayerNormalization(epsilon=1e-6)(middle), options.units, 0.1)
        stream = layers.Add()([branch, middle])
    features = layers.Dropout(0.5)(
        layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(stream))
    )
    logits = layers.Dense(options.classes, use_bias=options.final_bias)
    return tf_keras.Model(inputs, logits(mlp(features, options.head, 0.5)))


def save(folder, seed=0, **options):
    """Build it with weights unlike their initial values, train a step, and save it."""
    tf_keras.utils.set_random_seed(seed)
    model = build(Options(**options))
    generator = tf.random.Generator.from_seed(seed)
    for variable in model.trainable_variables:
        if len(variable.shape):
            variable.assign_add(0.05 * generator.normal(variable.shape))
    model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(generator.normal((8, *model.input_shape[1:])), tf.range(8), verbose=0)
    model.save(folder, save_format="tf")
    return folder
