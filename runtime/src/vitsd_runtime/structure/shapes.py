"""Shapes that operations make of shapes, alike in TensorFlow Lite and ONNX.

Each function raises :class:`FlawError` where an engine would have nothing to do, or would do
damage. A tensor's whole numbers may be anything here: they come out of the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vitsd_runtime.structure import limits
from vitsd_runtime.structure.graph import Shape, Tensor, require


def values(tensor: Tensor | None) -> tuple[int, ...]:
    """The numbers of a small constant."""
    if tensor is None or tensor.values is None:
        require(False, "needs a constant of a few whole numbers")
        return ()
    return tensor.values


def axis(number: int, rank: int) -> int:
    """An axis, counted from the first."""
    require(-rank <= number < rank, "has an axis {} of {}", number, rank)
    return number % rank


def broadcast(first: Shape, second: Shape) -> Shape:
    """Of two shapes, aligned at their ends."""
    if first == second:
        return first
    longer, shorter = sorted((first, second), key=len, reverse=True)
    lead = len(longer) - len(shorter)
    pairs = tuple(zip(longer[lead:], shorter))
    require(all(a == b or 1 in (a, b) for a, b in pairs), "joins {} and {}", first, second)
    return longer[:lead] + tuple(max(pair) for pair in pairs)


def matmul(left: Shape, right: Shape, right_transposed: bool = False) -> Shape:
    """Of a product of matrices, and of as many of them as the dimensions before the last two."""
    require(min(len(left), len(right)) >= 2, "multiplies {} and {}", left, right)
    inner, outer = right[-2:][::-1] if right_transposed else right[-2:]
    require(left[-1] == inner, "multiplies {} and {}", left, right)
    return (*broadcast(left[:-2], right[:-2]), left[-2], outer)


def matmul_depth(inputs: Sequence[Tensor]) -> int:
    """Products that are added up for each number of a product of matrices."""
    return inputs[0].shape[-1]


def convolve(
    image: Shape,
    kernel: tuple[int, ...],
    groups: int,
    strides: tuple[int, ...],
    axes: tuple[int, int, int],
) -> Shape:
    """Of a 3x3 convolution with as much padding as leaves the image's size to the strides.

    Args:
        image: with any batch first.
        kernel: its rows, columns, channels and filters.
        groups: of channels, convolved apart.
        strides: of rows and columns.
        axes: of the image's rows, columns and channels.
    """
    fits = len(image) == 4 and strides in ((1, 1), (2, 2)) and kernel[:2] == (3, 3)
    require(fits, "convolves {} and {} in steps of {}", image, kernel, strides)
    rows, columns, channels = axes
    split = groups == 1 or (groups == kernel[3] and kernel[2] == 1)
    require(split and kernel[2] * groups == image[channels], "convolves {} and {}", image, kernel)
    shape = [*image]
    shape[rows], shape[columns] = -(-image[rows] // strides[0]), -(-image[columns] // strides[1])
    shape[channels] = kernel[3]
    unfolded = 4 * shape[rows] * shape[columns] * 9 * image[channels]  # as some engines do first
    require(unfolded <= limits.MAX_LIVE_BYTES, "convolves {}", image)
    return tuple(shape)


def convolution_depth(inputs: Sequence[Tensor]) -> int:
    """Products that are added up for each number of a convolution."""
    return math.prod(inputs[1].shape[1:])


def reduce(shape: Shape, axes: Sequence[int], keep: bool) -> Shape:
    """Without the axes, or with length 1 there."""
    gone = {axis(number, len(shape)) for number in axes}
    require(gone and len(gone) == len(axes), "reduces {} along {}", shape, list(axes))
    kept = ((i, n) for i, n in enumerate(shape) if keep or i not in gone)
    return tuple(1 if i in gone else n for i, n in kept)


def reshape(shape: Shape, target: Sequence[int]) -> Shape:
    """As many elements in other dimensions, one of which may be -1."""
    known = math.prod(n for n in target if n != -1)
    require(
        target.count(-1) <= 1 and all(n > 0 or n == -1 for n in target),
        "reshapes to {}",
        list(target),
    )
    size = math.prod(shape)
    result = tuple(size // known if n == -1 else n for n in target)
    require(math.prod(result) == size, "reshapes {} to {}", shape, list(target))
    return result


def transpose(shape: Shape, order: Sequence[int]) -> Shape:
    """With the axes in another order."""
    require(sorted(order) == list(range(len(shape))), "transposes {} by {}", shape, list(order))
    return tuple(shape[i] for i in order)


def concatenate(parts: Sequence[Shape], number: int) -> Shape:
    """Of parts that are alike but along one axis."""
    first = parts[0]
    along = axis(number, len(first))
    rest = {(*part[:along], *part[along + 1 :]) for part in parts}
    same = len(rest) == 1 and all(len(part) == len(first) for part in parts)
    require(same, "joins {}", ", ".join(map(str, parts[:4])))
    return (*first[:along], sum(part[along] for part in parts), *first[along + 1 :])


def pad(shape: Shape, before: Sequence[int], after: Sequence[int]) -> Shape:
    """With margins, none of them negative."""
    fits = len(before) == len(after) == len(shape) and min((*before, *after), default=0) >= 0
    require(fits, "pads {} by {} and {}", shape, list(before), list(after))
    return tuple(n + a + b for n, a, b in zip(shape, before, after))


def cut(length: int, start: int, end: int) -> int:
    """Elements from ``start`` to ``end`` of a dimension; negative ones count from its end."""
    if length > limits.MAX_DIMENSION:  # any number of images: only all of them
        require(start == 0 and end >= limits.MAX_DIMENSION, "cuts a batch")
        return length
    first, last = (max(0, min(length, n + length if n < 0 else n)) for n in (start, end))
    require(last > first, "cuts {} to {} out of {}", start, end, length)
    return last - first


def space_to_depth(shape: Shape, block: int, channels_last: bool) -> Shape:
    """Blocks of pixels to channels."""
    require(len(shape) == 4 and block > 0, "cuts {} into blocks of {}", shape, block)
    batch, *size = shape
    height, width, channels = size if channels_last else (*size[1:], size[0])
    require(height % block == 0 == width % block, "cuts {} into blocks of {}", shape, block)
    height, width, channels = height // block, width // block, channels * block * block
    return (batch, height, width, channels) if channels_last else (batch, channels, height, width)


def gather(shape: Shape, indices: Sequence[int], number: int) -> Shape:
    """The slices at the indices along an axis, of which each exists."""
    along = axis(number, len(shape))
    length = shape[along]
    require(length <= limits.MAX_DIMENSION, "picks images of a batch")
    fits = len(indices) > 0 and 0 <= min(indices) <= max(indices) < length
    require(fits, "picks what is not among {}", length)
    return (*shape[:along], len(indices), *shape[along + 1 :])
