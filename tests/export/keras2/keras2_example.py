"""The public example's model in legacy Keras 2, as its SavedModels were made: for importing genuine ones."""

from __future__ import annotations

import math

import tensorflow as tf
import tf_keras
from tf_keras import layers


class Tokenization(layers.Layer):
    """Shifted patches (or, ``vanilla``, plain ones) to tokens; also returns the patches, as the example does."""

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


def build(
    image_size=24,
    patch_size=4,
    width=32,
    depth=2,
    heads=4,
    classes=10,
    units=(64, 32),
    head=(64, 48),
    channels=1,
    tau_is_variable=True,
    vanilla=False,
    raw_images=None,
    activation=tf.nn.gelu,
    final_bias=True,
):
    """The model. With ``raw_images`` (uint8), it normalises them by their own statistics and resizes them."""
    tokens = (image_size // patch_size) ** 2
    mask = tf.cast([1 - tf.eye(tokens)], tf.int8)

    def mlp(stream, sizes, rate):
        for size in sizes:
            stream = layers.Dropout(rate)(layers.Dense(size, activation=activation)(stream))
        return stream

    if raw_images is None:
        inputs = stream = tf_keras.Input((image_size, image_size, channels))
    else:
        inputs = tf_keras.Input(raw_images.shape[1:])
        normalization = layers.Normalization()
        normalization.adapt(raw_images)
        preprocessing = tf_keras.Sequential(
            [
                normalization,
                layers.Resizing(image_size, image_size),
                layers.RandomFlip("horizontal"),
            ]
        )
        stream = preprocessing(inputs)
    stream, _ = Tokenization(image_size, patch_size, width, vanilla)(stream)
    stream = Positions(tokens, width)(stream)
    for _ in range(depth):
        normed = layers.LayerNormalization(epsilon=1e-6)(stream)
        options = {"num_heads": heads, "key_dim": width, "dropout": 0.1}
        if vanilla:
            attended = layers.MultiHeadAttention(**options)(normed, normed)
        else:
            attended = LocalAttention(tau_is_variable, **options)(
                normed, normed, attention_mask=mask
            )
        middle = layers.Add()([attended, stream])
        branch = mlp(layers.LayerNormalization(epsilon=1e-6)(middle), units, 0.1)
        stream = layers.Add()([branch, middle])
    features = layers.Dropout(0.5)(
        layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(stream))
    )
    return tf_keras.Model(
        inputs, layers.Dense(classes, use_bias=final_bias)(mlp(features, head, 0.5))
    )


def save(folder, seed=0, **options):
    """Build it, move every weight away from its initial value, take a training step, and save it as a SavedModel."""
    tf_keras.utils.set_random_seed(seed)
    model = build(**options)
    generator = tf.random.Generator.from_seed(seed)
    for variable in model.trainable_variables:
        if len(variable.shape):
            variable.assign_add(0.05 * generator.normal(variable.shape))
    model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(generator.normal((8, *model.input_shape[1:])), tf.range(8), verbose=0)
    model.save(folder, save_format="tf")
    return folder
