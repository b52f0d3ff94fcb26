"""Statistics of pixels: for the normalization in front of the model, and to notice odd values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vitsd.data.stored import Images
from vitsd_runtime.types import UInt8Array

Statistics = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
_LEVELS = np.arange(256)
_CHUNK = 128
"""Images at once: what looks at them makes copies of up to eight bytes a value."""
_OUTLIERS = 0.001
"""Fraction of the values that says nothing about their range: hot pixels, burned-in text."""
_FEW_LEVELS = len(_LEVELS) // 4
"""Fewer adjacent levels than these hold a dataset whose values were scaled by the wrong range."""
_FAR = 3.0
"""Standard deviations between the means of two sets of images that no other light explains."""
_MANY_TIMES = 6.0
"""Ratio of the standard deviations of two sets of images that no other light explains."""


def pixel_statistics(images: Images) -> tuple[Statistics, Statistics]:
    """Mean and variance of the pixels per channel.

    What ``keras.layers.Normalization(axis=-1).adapt`` computes, but exact and without a float copy
    of the images.

    Args:
        images: ``(n, height, width, channels)``.

    Returns:
        Two float64 arrays ``(channels,)``, in 0-255 pixel units and their square.
    """
    return moments(pixel_counts(images))


def pixel_counts(images: Images) -> Counts:
    """How often each value occurs in each channel: ``(channels, 256)``.

    Args:
        images: ``(n, height, width, channels)``.
    """
    counts = np.zeros((images.shape[-1], len(_LEVELS)), np.int64)
    for chunk in _chunks(images):
        for channel in range(images.shape[-1]):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=len(_LEVELS))
    return counts


def moments(counts: Counts) -> tuple[Statistics, Statistics]:
    """Mean and variance per channel of what :func:`pixel_counts` counted."""
    total = counts.sum(axis=1)
    mean = counts @ _LEVELS / total
    return mean, (counts * (_LEVELS - mean[:, None]) ** 2).sum(axis=1) / total


def odd_values(images: Images, counts: Counts) -> Iterator[str]:
    """What is to be said of images from which little can be learned; nothing of usual ones.

    Equal images, images of one color, channels without variance, and values that fill less than a
    quarter of 0-255, as 12-bit values in 16-bit files (0-15) or a float image in 0..1 saved as
    uint8 do. It is the range that counts, not how many of its levels occur: images that are black
    and white, and nothing between, are fine.

    Args:
        images: ``(n, height, width, channels)``.
        counts: their :func:`pixel_counts`.
    """
    if len(images) > 1 and all(np.array_equal(image, images[0]) for image in images):
        yield f"All {len(images)} images are equal: nothing can be learned from them."
        return
    flat = sum(int(_is_flat(chunk).sum()) for chunk in _chunks(images))
    if flat:
        yield f"{flat} of {len(images)} images have the same color in all pixels."
    low, high = _ranges(counts)
    constant = np.flatnonzero(counts.max(axis=1) == counts.sum(axis=1))
    for channel in constant:
        yield f"Channel {channel + 1} has the value {low[channel]} in all pixels of all images."
    if len(constant) < len(counts) and (high - low).max() < _FEW_LEVELS:
        yield (
            f"99.9 % of the pixel values lie between {low.min()} and {high.max()}, of 0 to 255. If "
            "the files hold values of another range, such as 0 to 4095 (12 bits) in 16-bit files, "
            "give it (`value_range=0,4095`): else most of their differences are lost."
        )


def unlike_training(images: Images, mean: Sequence[float], variance: Sequence[float]) -> str | None:
    """What is to be said of images whose values are scaled unlike a model's training images.

    Args:
        images: ``(n, height, width, channels)``.
        mean: of the model's training images, per channel.
        variance: likewise.
    """
    own_mean, own_variance = map(np.mean, pixel_statistics(images))
    trained_mean, trained_variance = np.mean(mean), np.mean(variance)
    own, trained = np.sqrt(own_variance), np.sqrt(trained_variance)
    far = abs(own_mean - trained_mean) > _FAR * max(own, trained)
    if not far and trained <= _MANY_TIMES * own and own <= _MANY_TIMES * trained:
        return None
    return (
        f"The pixel values (mean {own_mean:.1f}, standard deviation {own:.1f}) are far from those "
        f"that the model was trained on ({trained_mean:.1f}, {trained:.1f}): they may be scaled "
        "differently."
    )


def _chunks(images: Images) -> Iterator[UInt8Array]:
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK]


def _is_flat(images: UInt8Array) -> npt.NDArray[np.bool_]:
    flat: npt.NDArray[np.bool_] = (images == images[:, :1, :1]).all(axis=(1, 2, 3))
    return flat


def _ranges(counts: Counts) -> tuple[Counts, Counts]:
    """Smallest and largest value of each channel, without :data:`_OUTLIERS`."""
    reached = counts.cumsum(axis=1) / counts.sum(axis=1, keepdims=True)
    low = (reached > _OUTLIERS / 2).argmax(axis=1)
    return low, (reached >= 1 - _OUTLIERS / 2).argmax(axis=1)
