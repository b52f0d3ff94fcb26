"""Preprocessing in NumPy, equal to the Keras layers ``Normalization`` and ``Resizing``."""

from __future__ import annotations

from vitsd_runtime.images.resizing import resize_matrix
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import AnyArray, Float32Array


def preprocess(images: AnyArray, spec: ModelSpec) -> Float32Array:
    """Normalize and resize a batch as the training model does.

    Args:
        images: ``(batch, *spec.input_size)``, values 0-255, uint8 or float.
        spec: the model's.

    Returns:
        float32 ``(batch, image_size, image_size, channels)``.
    """
    batch, height, width, channels = images.shape
    size = spec.image_size
    scale, offset = spec.normalization()
    images = images * scale
    images += offset
    if height != size:
        images = resize_matrix(height, size) @ images.reshape(batch, height, width * channels)
    if width != size:
        images = resize_matrix(width, size) @ images.reshape(batch, size, width, channels)
    return images.reshape(batch, size, size, channels)
