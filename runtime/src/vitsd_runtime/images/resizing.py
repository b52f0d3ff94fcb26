"""Keras' bilinear resizing as matrix products: one matrix per axis."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vitsd_runtime.types import Float32Array


@lru_cache(maxsize=64)
def resize_matrix(size: int, new_size: int) -> Float32Array:
    """Bilinear interpolation of one axis: ``new = matrix @ old``.

    Half-pixel centers, edges clamped, no antialiasing, as
    ``keras.layers.Resizing(interpolation="bilinear")``.

    Returns:
        float32 ``(new_size, size)``, read-only.
    """
    pixels = np.arange(size) + 0.5
    centers = (np.arange(new_size) + 0.5) * size / new_size
    # Positions beyond the outermost pixel centers take that pixel's value.
    centers = np.clip(centers, pixels[0], pixels[-1])
    weights = np.maximum(0.0, 1.0 - np.abs(centers[:, None] - pixels))
    matrix: Float32Array = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)  # it is shared through the cache
    return matrix
