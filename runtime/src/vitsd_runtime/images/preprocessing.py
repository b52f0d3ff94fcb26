"""Preprocessing in NumPy, equal to the Keras layers ``Normalization`` and ``Resizing``."""

from __future__ import annotations

from vitsd_runtime.images.resizing import interpolate
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import AnyArray, Float32Array


def preprocess(images: AnyArray, spec: ModelSpec) -> Float32Array:
    """Normalize and resize a batch as the training model does, to the same bits on every CPU.

    Args:
        images: ``(batch, *spec.input_size)``, values 0-255, uint8 or float.
        spec: the model's.

    Returns:
        float32 ``(batch, image_size, image_size, channels)``.
    """
    scale, offset = spec.normalization()
    images = images * scale
    images += offset
    if images.shape[1:3] == (spec.image_size, spec.image_size):
        return images
    return interpolate(images, spec.image_size)
