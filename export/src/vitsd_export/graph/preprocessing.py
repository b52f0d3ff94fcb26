"""Preprocessing as a part of the graph."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vitsd_export.graph.ops import Tensor, constant
from vitsd_runtime.images.resizing import neighbors
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import AnyArray


def preprocess(images: Tensor, spec: ModelSpec) -> Tensor:
    """Normalize and resize, to the bit as :func:`vitsd_runtime.preprocess` does in NumPy.

    Args:
        images: uint8 ``(batch, *spec.input_size)``.
        spec: the model's.

    Returns:
        float32 ``(batch, image_size, image_size, channels)``.
    """
    scale, offset = spec.normalization()
    images = tf.cast(images, tf.float32) * constant(scale) + constant(offset)
    for axis in (2, 1):
        if images.shape[axis] != spec.image_size:
            images = _interpolate(images, axis, spec.image_size)
    return images


def _interpolate(images: Tensor, axis: int, size: int) -> Tensor:
    low, high, share = neighbors(images.shape[axis], size)
    lower = _pixels(images, low, axis)
    shape = (-1, 1, 1) if axis == 1 else (-1, 1)
    return lower + constant(share.reshape(shape)) * (_pixels(images, high, axis) - lower)


def _pixels(images: Tensor, indices: AnyArray, axis: int) -> Tensor:
    return tf.gather(images, indices.astype(np.int32), axis=axis)
