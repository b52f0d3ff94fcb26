"""Pillow's antialiased bilinear resizing, to the bit: by Pillow, or in NumPy.

One result for files and arrays, so that the same pixels give the same answer however they come,
with any version of Pillow or none. A triangle filter that widens with the scale is applied along
the rows, the result rounded to 8 bits, and then along the columns, with weights of 22 binary
digits. (Each is a call of its own: from version 13 on, Pillow itself treats some tall images the
other way round.) NumPy does it where Pillow is missing, or is a variant that rounds in another way.

NumPy's sums are of whole numbers below 2**53 in float64: exact, so equal on every CPU in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from vitsd_runtime.types import AnyArray, Float64Array, UInt8Array

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""
Size = tuple[int, int]
"""Height and width in pixels."""
Rows = Callable[[int, int], Any]
"""The rows from a first to a last one (excluded) of an image: uint8 ``(rows, width, channels)``,
with 1 channel or 3, or a PIL image of mode L or RGB."""

_ONE = float(2**22)
_GROUP = 8
"""New pixels that one matrix product makes: more products are slow, fewer multiply by zeros."""
_STRIP_VALUES = 2**17
"""Values that are read and, in NumPy, converted to float64 at once: 1 MB, which caches hold."""


class _Group(NamedTuple):
    """Neighboring new pixels of an axis: ``new[start:stop] = old[first:last] @ weights``."""

    start: int
    stop: int
    first: int
    last: int
    weights: Float64Array


def resize(rows: Rows, size: Size, new_size: Size, box: Box, whole: bool = False) -> UInt8Array:
    """Bring part of an image to a new size.

    Args:
        rows: reads the image, from top to bottom, each row at most once.
        size: height and width of the image.
        new_size: height and width of the result.
        box: the part.
        whole: Pillow may read all rows at once; else they are read in parts that caches hold.

    Returns:
        uint8 ``(height, width, channels)``.
    """
    return choose_resizer()(rows, size, new_size, box, whole)


def as_array(part: Any) -> AnyArray:
    """A PIL image or an array ``(height, width[, channels])`` as an array with channels."""
    array = np.asarray(part)
    return array.reshape(*array.shape[:2], -1)


def center_crop(box: Box, new_size: Size) -> Box:
    """The largest central part of an image with the aspect ratio of another.

    Args:
        box: of the image.
        new_size: height and width of the other.
    """
    (start, above, end, below), (new_height, new_width) = box, new_size
    height, width = below - above, end - start
    scale = min(height / new_height, width / new_width)
    # Rounding must not lead out of the image.
    crop_height, crop_width = min(new_height * scale, height), min(new_width * scale, width)
    left, top = start + (width - crop_width) / 2, above + (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


@lru_cache(maxsize=1)
def choose_resizer() -> Callable[[Rows, Size, Size, Box, bool], UInt8Array]:
    """What resizes here: Pillow, if it does it as NumPy."""
    pattern = (np.arange(40 * 60) ** 2 % 251).astype(np.uint8).reshape(40, 60, 1)
    task = lambda start, stop: pattern[start:stop], (40, 60), (7, 9), (0.3, 0.0, 59.8, 39.7), False
    try:
        return _by_pillow if np.array_equal(_by_pillow(*task), _in_numpy(*task)) else _in_numpy
    except ImportError:  # also one that does not fit this Python
        return _in_numpy


def _by_pillow(rows: Rows, size: Size, new_size: Size, box: Box, whole: bool) -> UInt8Array:
    from PIL import Image

    left, top, right, bottom = box
    reach = max((bottom - top) / new_size[0], 1.0)  # of the filter, beyond the box
    strips = _strips(size, math.floor(top - reach), math.ceil(bottom + reach))
    narrow: Any = None
    for start, stop in [(0, size[0])] if whole else strips:
        part = rows(start, stop)
        if isinstance(part, np.ndarray):
            part = Image.fromarray(part if part.shape[2] == 3 else part[..., 0])
        across = (left, 0, right, stop - start)
        part = part.resize((new_size[1], stop - start), Image.Resampling.BILINEAR, across)
        narrow = narrow or Image.new(part.mode, (new_size[1], size[0]))
        narrow.paste(part, (0, start))
    down = (0, top, new_size[1], bottom)
    return as_array(narrow.resize(new_size[::-1], Image.Resampling.BILINEAR, down))


def _in_numpy(rows: Rows, size: Size, new_size: Size, box: Box, whole: bool) -> UInt8Array:
    left, top, right, bottom = (np.float32(side) for side in box)  # Pillow's precision
    columns = _groups(size[1], new_size[1], left, right)
    lines = _groups(size[0], new_size[0], top, bottom)
    first, last = lines[0].first, lines[-1].last
    strips = _strips(size, first, last)
    narrow = np.concatenate([_along_rows(as_array(rows(*strip)), columns) for strip in strips])
    # What was below is beside now.
    turned = _along_rows(narrow.transpose(1, 0, 2), [_shifted(group, first) for group in lines])
    return np.ascontiguousarray(turned.transpose(1, 0, 2))


def _strips(size: Size, first: int, last: int) -> list[tuple[int, int]]:
    """The rows from ``first`` to ``last`` of an image, in parts that caches hold."""
    first, last = max(first, 0), min(last, size[0])
    step = max(1, _STRIP_VALUES // size[1] // 3)
    return [(start, min(start + step, last)) for start in range(first, last, step)]


def _along_rows(image: UInt8Array, groups: list[_Group]) -> UInt8Array:
    """Filter the second axis of ``(n, width, channels)``."""
    count, width, channels = image.shape
    values = np.empty((channels, count, width))
    values[:] = image.transpose(2, 0, 1)
    values = values.reshape(channels * count, width)
    result = np.empty((count, groups[-1].stop, channels), np.uint8)
    for start, stop, first, last, weights in groups:
        sums = values[:, first:last] @ weights
        sums += _ONE / 2  # to the nearest, halves upwards
        sums /= _ONE
        made = sums.astype(np.uint8).reshape(channels, count, stop - start)
        result[:, start:stop] = made.transpose(1, 2, 0)
    return result


def _shifted(group: _Group, offset: int) -> _Group:
    return group._replace(first=group.first - offset, last=group.last - offset)


@lru_cache(maxsize=16)
def _groups(size: int, new_size: int, low: np.float32, high: np.float32) -> list[_Group]:
    """The filter of an axis of ``size`` pixels, whose part from ``low`` to ``high`` is wanted."""
    scale = float(high - low) / new_size
    support = max(scale, 1.0)
    centers = float(low) + (np.arange(new_size) + 0.5) * scale
    first = np.maximum((centers - support + 0.5).astype(int), 0)
    last = np.minimum((centers + support + 0.5).astype(int), size)
    groups = []
    for start in range(0, new_size, _GROUP):
        stop = min(start + _GROUP, new_size)
        group = slice(start, stop)
        pixels = np.arange(first[start], last[stop - 1])[:, None]
        weights = 1.0 - np.abs((pixels - centers[group] + 0.5) * (1.0 / support))
        weights[(pixels < first[group]) | (pixels >= last[group]) | (weights < 0)] = 0.0
        weights /= np.cumsum(weights, axis=0)[-1]  # one after the other, as Pillow adds them
        weights = np.floor(weights * _ONE + 0.5)  # together at most 1.0001: no sum reaches 256
        groups.append(_Group(start, stop, int(first[start]), int(last[stop - 1]), weights))
    return groups
