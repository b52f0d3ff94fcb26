"""Preprocessing in NumPy, equal to the Keras layers ``Normalization`` and ``Resizing`` of the training model."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def resize_matrix(size: int, new_size: int) -> np.ndarray:
    """Bilinear interpolation of one axis as a float32 matrix ``(new_size, size)``: ``new = matrix @ old``.

    Half-pixel centres, edges clamped, no antialiasing: ``keras.layers.Resizing(interpolation="bilinear")``.
    """
    return _interpolation(size, new_size, 0.0, float(size), support=1.0)


@lru_cache(maxsize=64)
def antialiased_resize_matrix(size: int, new_size: int, start: float, stop: float) -> np.ndarray:
    """Like :func:`resize_matrix`, for the part from ``start`` to ``stop`` of the axis; as ``PIL.Image.resize(box=...)``.

    When shrinking, the triangle filter widens with the scale.
    """
    return _interpolation(size, new_size, start, stop, support=max(1.0, (stop - start) / new_size))


def _interpolation(
    size: int, new_size: int, start: float, stop: float, support: float
) -> np.ndarray:
    pixels = np.arange(size) + 0.5
    centres = start + (np.arange(new_size) + 0.5) * (stop - start) / new_size
    # Positions beyond the outermost pixel centres take that pixel's value.
    if support == 1.0:
        centres = np.clip(centres, pixels[0], pixels[-1])
    matrix = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - pixels) / support)
    matrix = (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)  # it is shared through the cache
    return matrix


def preprocess(images: np.ndarray, spec) -> np.ndarray:
    """Normalise and resize a batch as the training model does.

    Args:
        images: ``(batch, *spec.input_size)``, values 0-255, uint8 or float.
        spec: a :class:`vitsd_runtime.ModelSpec`.

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
