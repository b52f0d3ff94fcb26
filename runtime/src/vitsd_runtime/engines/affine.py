"""Between real numbers and the integers of a quantised tensor: ``real = scale * (integer - zero_point)``."""

from __future__ import annotations

import numpy as np


def quantize(values: np.ndarray, scale: float, zero_point: int, dtype) -> np.ndarray:
    """Real values to integers: rounded half away from zero (as TFLite's QUANTIZE), saturated to ``dtype``'s range."""
    limits = np.iinfo(dtype)
    scaled = np.asarray(values, np.float32) / np.float32(scale)
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)) + zero_point
    return np.clip(rounded, limits.min, limits.max).astype(dtype)


def dequantize(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Integers to float32."""
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
