"""The layers of a Vision Transformer for small datasets, written with ``keras.ops`` only.

Source: S. H. Lee, S. Lee, B. C. Song, "Vision Transformer for Small-Size Datasets", arXiv:2112.13492.
All layers are channels-last and work on every Keras 3 backend.
"""

from __future__ import annotations

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="vitsd")
class ShiftedPatchTokenization(layers.Layer):
    """Turn images into tokens; each token also sees its four diagonal neighbourhoods (paper, section 3.2).

    The image and its copies shifted by half a patch to the left-up, left-down, right-up and right-down (zero fill) are
    concatenated on the channel axis, cut into patches that are flattened in (row, column, channel) order, normalised,
    and projected to ``width``. With ``shifted=False`` it is the plain ViT tokenizer: patches of the image itself,
    projected without normalisation.

    Input: float ``(batch, height, width, channels)``; height and width must be multiples of ``patch_size``.
    Output: float ``(batch, tokens, width)``, tokens in row-major order.

    Raises:
        ValueError: if the image size is not a multiple of the patch size.
    """

    def __init__(
        self, patch_size: int, width: int, shifted: bool = True, epsilon: float = 1e-6, **kwargs
    ):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.width = width
        self.shifted = shifted
        self.epsilon = epsilon
        if shifted:
            self.norm = layers.LayerNormalization(
                epsilon=epsilon, dtype=self.dtype_policy, name="norm"
            )
        self.projection = layers.Dense(width, dtype=self.dtype_policy, name="projection")

    def _grid(self, input_shape):
        height, width = input_shape[1], input_shape[2]
        if height is None or width is None or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"An image of {height}x{width} can't be cut into patches of {self.patch_size}x{self.patch_size}: "
                "both sides must be multiples of the patch size."
            )
        return height // self.patch_size, width // self.patch_size

    def build(self, input_shape):
        rows, columns = self._grid(input_shape)
        views = 5 if self.shifted else 1
        patches = (None, rows * columns, views * self.patch_size**2 * input_shape[3])
        if self.shifted:
            self.norm.build(patches)
        self.projection.build(patches)

    def call(self, images):
        rows, columns = self._grid(images.shape)
        if self.shifted:
            images = ops.concatenate([images, *self.shifted_copies(images)], axis=-1)
        patch, channels = self.patch_size, images.shape[3]
        patches = ops.reshape(images, (-1, rows, patch, columns, patch, channels))
        patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))
        patches = ops.reshape(patches, (-1, rows * columns, patch * patch * channels))
        return self.projection(self.norm(patches) if self.shifted else patches)

    def shifted_copies(self, images):
        """The four shifted copies of images ``(batch, height, width, channels)``, one after the other."""
        # Every shifted copy is a window of one zero-padded image: a shift to the left-up by `half` shows at (y, x) what
        # stood at (y + half, x + half), that is, the window that starts at 2 * half in the padded image.
        height, width, half = images.shape[1], images.shape[2], self.patch_size // 2
        padded = ops.pad(images, ((0, 0), (half, half), (half, half), (0, 0)))
        for top, left in ((2 * half, 2 * half), (0, 2 * half), (2 * half, 0), (0, 0)):
            yield padded[:, top : top + height, left : left + width, :]

    def compute_output_shape(self, input_shape):
        rows, columns = self._grid(input_shape)
        return (input_shape[0], rows * columns, self.width)

    def get_config(self):
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "width": self.width,
            "shifted": self.shifted,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="vitsd")
class PositionEmbedding(layers.Layer):
    """Add a learned vector to every token. Float ``(batch, tokens, width)`` in and out."""

    def build(self, input_shape):
        self.embedding = self.add_weight(
            name="embedding", shape=input_shape[1:], initializer="uniform"
        )

    def call(self, tokens):
        return tokens + self.embedding

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):  # Keras can't derive it where the dtype is given as a policy object
        return super().get_config()


@keras.saving.register_keras_serializable(package="vitsd")
class LocalitySelfAttention(layers.Layer):
    """Multi-head self-attention with a learned temperature and no attention of a token to itself (paper, section 3.3).

    ``softmax(mask(q k^T / tau)) v`` per head, where ``mask`` removes the diagonal and ``tau`` is one trainable scalar that
    starts at ``sqrt(key_dim)``. With ``local=False`` it is ordinary scaled dot-product attention: no mask, and a constant
    ``tau = sqrt(key_dim)``. Kernels have the shapes of ``keras.layers.MultiHeadAttention`` (``[width, heads, key_dim]``
    for query, key and value, ``[heads, key_dim, width]`` for the output) and its initialisers.

    Input and output: float ``(batch, tokens, width)``.
    """

    def __init__(
        self, num_heads: int, key_dim: int, dropout: float = 0.0, local: bool = True, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.local = local
        self.dropout = layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape):
        tokens, width = input_shape[1], input_shape[2]
        if self.local and tokens < 2:
            raise ValueError(
                "Locality self-attention needs at least 2 tokens: with one, nothing is left to attend to."
            )

        def projection(name):
            layer = layers.EinsumDense(
                "btd,dhk->bthk",
                output_shape=(None, self.num_heads, self.key_dim),
                bias_axes="hk",
                dtype=self.dtype_policy,
                name=name,
            )
            layer.build((None, tokens, width))
            return layer

        self.query, self.key, self.value = (
            projection("query"),
            projection("key"),
            projection("value"),
        )
        self.projection = layers.EinsumDense(
            "bthk,hkd->btd",
            output_shape=(None, width),
            bias_axes="d",
            dtype=self.dtype_policy,
            name="projection",
        )
        self.projection.build((None, tokens, self.num_heads, self.key_dim))
        if self.local:
            self.tau = self.add_weight(
                name="tau",
                shape=(),
                initializer=keras.initializers.Constant(self.key_dim**0.5),
                trainable=True,
            )

    def attention(self, tokens):
        """The softmax's weights, float32 ``(batch, heads, query tokens, key tokens)``."""
        query, key = self.query(tokens), self.key(tokens)
        tau = ops.cast(self.tau, query.dtype) if self.local else self.key_dim**0.5
        # Softmax runs in float32 whatever the policy: in float16 the sum over many tokens loses too much.
        scores = ops.cast(ops.einsum("bqhk,bthk->bhqt", query / tau, key), "float32")
        if self.local:
            scores = scores - 1e9 * ops.eye(scores.shape[-1], dtype="float32")
        return ops.softmax(scores, axis=-1)

    def call(self, tokens, training=None):
        value = self.value(tokens)
        weights = self.dropout(ops.cast(self.attention(tokens), value.dtype), training=training)
        return self.projection(ops.einsum("bhqt,bthk->bqhk", weights, value))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "dropout": self.dropout.rate,
            "local": self.local,
        }
