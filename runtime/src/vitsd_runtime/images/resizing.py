"""Bilinear resizing, as Keras does it, whose result does not depend on the CPU.

A value between two pixels is ``low + share * (high - low)``: three operations, each rounded once
whatever the machine, and exactly ``low`` where both are equal. The sum of two products, as in a
matrix product, has neither property: ``x / 3 + 2 * x / 3`` is not always ``x``, and differs between
CPUs that round the product and those that don't. Behind it the model divides a patch by its
standard deviation, up to 1,000 times larger, so flat areas must stay flat.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vitsd_runtime.types import AnyArray, Float32Array


@lru_cache(maxsize=64)
def neighbors(size: int, new_size: int) -> tuple[AnyArray, AnyArray, Float32Array]:
    """Between which pixels of an axis the new ones lie.

    Half-pixel centers, edges clamped, no antialiasing, as
    ``keras.layers.Resizing(interpolation="bilinear")``.

    Returns:
        The indices of the lower and of the higher pixel, and the share of the higher one, float32;
        each ``(new_size,)``.
    """
    centers = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    low = centers.astype(np.intp)
    return low, np.minimum(low + 1, size - 1), (centers - low).astype(np.float32)


def interpolate(images: Float32Array, size: int) -> Float32Array:
    """Bring images ``(batch, height, width, channels)`` to ``size`` x ``size``, as Keras does."""
    resized = np.empty((len(images), size, size, images.shape[3]), np.float32)
    # One by one: an image and its intermediate results fit into the CPU's cache.
    for image, target in zip(images, resized):
        target[:] = _along(_along(image, 1, size), 0, size)
    return resized


def _along(image: Float32Array, axis: int, size: int) -> Float32Array:
    low, high, share = neighbors(image.shape[axis], size)
    lower, difference = image.take(low, axis), image.take(high, axis)
    difference -= lower
    difference *= share.reshape((-1, 1, 1) if axis == 0 else (-1, 1))
    lower += difference
    return lower
