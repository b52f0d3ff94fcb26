"""The layers of a Vision Transformer for small datasets, written with ``keras.ops`` only.

Source: S. H. Lee, S. Lee, B. C. Song, "Vision Transformer for Small-Size Datasets",
arXiv:2112.13492.
All layers are channels-last and work on every Keras 3 backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

Tensor = Any
"""A tensor of Keras' backend."""
Shape = tuple[Any, ...]
"""Sizes of a tensor's axes; None where a size is not known."""


@keras.saving.register_keras_serializable(package="vitsd")
class ShiftedPatchTokenization(layers.Layer):
    """Turn images into tokens; each also sees its four diagonal neighborhoods (section 3.2).

    The image and its copies shifted by half a patch to the left-up, left-down, right-up and
    right-down (zero fill) are concatenated on the channel axis, cut into patches that are
    flattened in (row, column, channel) order, normalized, and projected to ``hidden_dim``. With
    ``shifted=False`` it is the plain ViT tokenizer: patches of the image itself, projected without
    normalization.

    Input: float ``(batch, height, width, channels)``; both sides are multiples of ``patch_size``.
    Output: float ``(batch, tokens, hidden_dim)``, tokens in row-major order.

    Args:
        patch_size: side of a patch in pixels.
        hidden_dim: length of a token.
        shifted: whether patches see the shifted copies too.
        epsilon: added to the variance in the LayerNorm.
        **kwargs: of a Keras layer.

    Raises:
        ValueError: when it is built for an image size that is not a multiple of the patch size.
    """

    def __init__(
        self,
        patch_size: int,
        hidden_dim: int,
        shifted: bool = True,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        self.shifted = shifted
        self.epsilon = epsilon
        if shifted:
            self.norm = layers.LayerNormalization(
                epsilon=epsilon, dtype=self.dtype_policy, name="norm"
            )
        self.projection = layers.Dense(hidden_dim, dtype=self.dtype_policy, name="projection")

    def _grid(self, input_shape: Shape) -> tuple[int, int]:
        height, width = input_shape[1], input_shape[2]
        if height is None or width is None or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"An image of {height}x{width} can't be cut into patches of "
                f"{self.patch_size}x{self.patch_size}: both sides must be multiples of the patch "
                "size."
            )
        return height // self.patch_size, width // self.patch_size

    def build(self, input_shape: Shape) -> None:
        """Make the weights, for images ``(batch, height, width, channels)``."""
        rows, columns = self._grid(input_shape)
        views = 5 if self.shifted else 1
        patches = (None, rows * columns, views * self.patch_size**2 * input_shape[3])
        if self.shifted:
            self.norm.build(patches)
        self.projection.build(patches)

    def call(self, images: Tensor) -> Tensor:
        """Tokens of images."""
        rows, columns = self._grid(images.shape)
        if self.shifted:
            images = ops.concatenate([images, *self.shifted_copies(images)], axis=-1)
        patch, channels = self.patch_size, images.shape[3]
        patches = ops.reshape(images, (-1, rows, patch, columns, patch, channels))
        patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))
        patches = ops.reshape(patches, (-1, rows * columns, patch * patch * channels))
        if self.shifted:
            # The norm divides by a patch's deviation. The mean of large, nearly equal values is
            # rounded by more than a nearly flat patch deviates; that of their differences is not.
            patches = self.norm(patches - patches[..., :1])
        return self.projection(patches)

    def shifted_copies(self, images: Tensor) -> Iterator[Tensor]:
        """The four shifted copies of images ``(batch, height, width, channels)``."""
        # Every shifted copy is a window of one zero-padded image: a shift to the left-up by `half`
        # shows at (y, x) what stood at (y + half, x + half), that is, the window that starts at
        # 2 * half in the padded image.
        height, width, half = images.shape[1], images.shape[2], self.patch_size // 2
        padded = ops.pad(images, ((0, 0), (half, half), (half, half), (0, 0)))
        for top, left in ((2 * half, 2 * half), (0, 2 * half), (2 * half, 0), (0, 0)):
            yield padded[:, top : top + height, left : left + width, :]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, tokens, hidden_dim)``."""
        rows, columns = self._grid(input_shape)
        return (input_shape[0], rows * columns, self.hidden_dim)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ShiftedPatchTokenization:
        """The layer of a :meth:`get_config`; in files of vitsd 0.1, hidden_dim is called width."""
        config = dict(config)
        if "width" in config:
            config["hidden_dim"] = config.pop("width")
        layer: ShiftedPatchTokenization = super().from_config(config)
        return layer

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
            "shifted": self.shifted,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="vitsd")
class PositionEmbedding(layers.Layer):
    """Add a learned vector to every token. Float ``(batch, tokens, hidden_dim)`` in and out."""

    def build(self, input_shape: Shape) -> None:
        """Make a vector per token."""
        self.embedding = self.add_weight(
            name="embedding", shape=input_shape[1:], initializer="uniform"
        )

    def call(self, tokens: Tensor) -> Tensor:
        """The sum."""
        return tokens + self.embedding

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        # Keras can't derive it where the dtype is given as a policy object.
        config: dict[str, Any] = super().get_config()
        return config


@keras.saving.register_keras_serializable(package="vitsd")
class LocalitySelfAttention(layers.Layer):
    """Attention with a learned temperature in which no token attends to itself (section 3.3).

    ``softmax(mask(q k^T / tau)) v`` per head, where ``mask`` removes the diagonal and ``tau`` is
    one trainable scalar that starts at ``sqrt(key_dim)``. With ``local=False`` it is ordinary
    scaled dot-product attention: no mask, and a constant ``tau = sqrt(key_dim)``.

    Kernels have the shapes of ``keras.layers.MultiHeadAttention`` (``[hidden_dim, heads, key_dim]``
    for query, key and value, ``[heads, key_dim, hidden_dim]`` for the output) and its initializers.

    Input and output: float ``(batch, tokens, hidden_dim)``.

    Args:
        num_heads: attention heads.
        key_dim: length of the query and key of one head.
        dropout: rate for the attention weights.
        local: whether the temperature is learned and the diagonal removed.
        **kwargs: of a Keras layer.

    Raises:
        ValueError: when it is built for a single token, and ``local``.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        dropout: float = 0.0,
        local: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.local = local
        self.dropout = layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape: Shape) -> None:
        """Make the weights, for ``(batch, tokens, hidden_dim)``."""
        _, tokens, hidden_dim = input_shape
        if self.local and tokens < 2:
            raise ValueError(
                "Locality Self-Attention needs at least 2 tokens: with one, nothing is left to "
                "attend to."
            )
        self.query = self._input_projection("query", input_shape)
        self.key = self._input_projection("key", input_shape)
        self.value = self._input_projection("value", input_shape)
        self.projection = layers.EinsumDense(
            "bthk,hkd->btd",
            output_shape=(None, hidden_dim),
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

    def _input_projection(self, name: str, input_shape: Shape) -> layers.Layer:
        layer = layers.EinsumDense(
            "btd,dhk->bthk",
            output_shape=(None, self.num_heads, self.key_dim),
            bias_axes="hk",
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build((None, *input_shape[1:]))
        return layer

    def attention(self, tokens: Tensor) -> Tensor:
        """The softmax's weights, float32 ``(batch, heads, query tokens, key tokens)``."""
        query, key = self.query(tokens), self.key(tokens)
        tau = ops.cast(self.tau, query.dtype) if self.local else self.key_dim**0.5
        # Softmax runs in float32 whatever the policy: float16 loses too much in a long sum.
        scores = ops.cast(ops.einsum("bqhk,bthk->bhqt", query / tau, key), "float32")
        if self.local:
            scores = scores - 1e9 * ops.eye(scores.shape[-1], dtype="float32")
        return ops.softmax(scores, axis=-1)

    def call(self, tokens: Tensor, training: bool | None = None) -> Tensor:
        """Attended tokens."""
        value = self.value(tokens)
        weights = self.dropout(ops.cast(self.attention(tokens), value.dtype), training=training)
        return self.projection(ops.einsum("bhqt,bthk->bqhk", weights, value))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "dropout": self.dropout.rate,
            "local": self.local,
        }
