"""Between real numbers and a quantized tensor's integers.

``real = scale * (integer - zero_point)``
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vitsd_runtime.types import AnyArray, Float32Array


def quantize(
    values: AnyArray, scale: float, zero_point: int, dtype: npt.DTypeLike
) -> npt.NDArray[np.integer[Any]]:
    """Real values to integers, as TFLite's QUANTIZE: half away from zero, saturated.

    Args:
        values: float, of any shape.
        scale: real size of one step.
        zero_point: the integer that stands for 0.
        dtype: an integer type, whose range the result is cut to.
    """
    limits = np.iinfo(np.dtype(dtype))
    scaled = np.asarray(values, np.float32) / np.float32(scale)
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)) + zero_point
    integers: npt.NDArray[np.integer[Any]] = np.clip(rounded, limits.min, limits.max).astype(dtype)
    return integers


def dequantize(values: AnyArray, scale: float, zero_point: int) -> Float32Array:
    """Integers of any shape to float32; the inverse of :func:`quantize`, up to rounding."""
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
