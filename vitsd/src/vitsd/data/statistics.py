"""Statistics of pixels, for the normalization in front of the model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vitsd_runtime.types import UInt8Array

Statistics = npt.NDArray[np.float64]
_LEVELS = np.arange(256)


def pixel_statistics(images: UInt8Array) -> tuple[Statistics, Statistics]:
    """Mean and variance of the pixels per channel.

    What ``keras.layers.Normalization(axis=-1).adapt`` computes, but exact and without a float copy
    of the images.

    Args:
        images: ``(n, height, width, channels)``.

    Returns:
        Two float64 arrays ``(channels,)``, in 0-255 pixel units and their square.
    """
    counts = np.zeros((images.shape[-1], len(_LEVELS)), np.int64)
    for start in range(0, len(images), 1024):  # bincount works on a copy in 64 bits
        for channel in range(images.shape[-1]):
            pixels = images[start : start + 1024, ..., channel].ravel()
            counts[channel] += np.bincount(pixels, minlength=len(_LEVELS))
    total = counts.sum(axis=1)
    mean = counts @ _LEVELS / total
    return mean, (counts * (_LEVELS - mean[:, None]) ** 2).sum(axis=1) / total
