"""Preprocessing as a part of the graph."""

from __future__ import annotations

import tensorflow as tf

from vitsd_export.graph.ops import Tensor, constant
from vitsd_runtime.images.resizing import resize_matrix
from vitsd_runtime.spec import ModelSpec


def preprocess(images: Tensor, spec: ModelSpec) -> Tensor:
    """Normalize and resize, exactly as :func:`vitsd_runtime.preprocess` does in NumPy.

    Args:
        images: uint8 ``(batch, *spec.input_size)``.
        spec: the model's.

    Returns:
        float32 ``(batch, image_size, image_size, channels)``; resized bilinearly, as two matrix
        products.
    """
    height, width, channels = spec.input_size
    size = spec.image_size
    scale, offset = spec.normalization()
    images = tf.cast(images, tf.float32) * constant(scale) + constant(offset)
    if height != size:
        images = tf.reshape(images, (-1, height, width * channels))
        images = tf.matmul(constant(resize_matrix(height, size)), images)
        images = tf.reshape(images, (-1, size, width, channels))
    if width != size:
        images = tf.matmul(constant(resize_matrix(width, size)), images)
    return images
