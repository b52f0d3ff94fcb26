"""Which range of real numbers an int8 tensor stands for, from what a float model does on images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from vitsd_runtime.errors import UsageError
from vitsd_runtime.types import AnyArray, Float32Array, FloatArray

_BINS = 4096

RangeKind = Literal["minmax", "percentile", "mse", "p", "min/", "max/", "max*"]
_PATTERN = re.compile(
    r"(?P<plain>minmax|percentile|mse)"
    r"|(?P<kind>p)(?P<percentile>99(\.\d+)?)"
    r"|(?P<divided>min/)(?P<divisor>[1-9]\d*)"
    r"|(?P<scaled>max[/*])(?P<factor>[1-9]\d*(\.\d+)?)"
)


@dataclass(frozen=True)
class RangeMethod:
    """How a tensor's range is chosen from the values that were seen.

    Its text, as in recipes, is one of:

    ============== ==============================================================================
    ``minmax``     from the smallest to the largest value: none is lost
    ``percentile`` leaves out one value in 10,000 on each side
    ``p99.9``      leaves out 0.1 % of the values on each side; 99 or more
    ``mse``        clips as much as makes the mean squared error of rounding and clipping together
                   smallest (as in Choukroun et al., arXiv:1902.06822, and OCTAV,
                   arXiv:2206.06501, here by search)
    ``min/4``      clips below a quarter of the smallest value; a whole number
    ``max/4``      clips above a quarter of the largest value; any number from 1
    ``max*2``      leaves room for twice the largest value; any number from 1
    ============== ==============================================================================
    """

    kind: RangeKind
    number: float | None = None
    """Percentile, divisor or factor of the kinds that have one."""

    @classmethod
    def parse(cls, text: str) -> RangeMethod:
        """The inverse of ``str``.

        Raises:
            UsageError: there is no such method.
        """
        found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise UsageError(f"unknown range method {text!r:.60}")
        parts = [part for name, part in found.groupdict().items() if part is not None]
        number = float(parts[1]) if len(parts) > 1 else None
        return cls(cast(RangeKind, parts[0]), number)

    def __str__(self) -> str:
        return self.kind if self.number is None else f"{self.kind}{self.number:.15g}"


MINMAX, PERCENTILE, MSE = (RangeMethod.parse(name) for name in ("minmax", "percentile", "mse"))
USUAL_METHODS = (MINMAX, PERCENTILE, MSE)
"""What is tried for activations."""


def parse_methods(text: str) -> tuple[RangeMethod, ...]:
    """Several methods, separated by spaces."""
    return tuple(map(RangeMethod.parse, text.split()))


@dataclass
class Distribution:
    """A histogram of a tensor's values over all calibration images."""

    low: float
    high: float
    counts: FloatArray
    """Values in each of the equal parts of ``low`` to ``high``."""

    def range(self, method: RangeMethod) -> tuple[float, float]:
        """The values that int8 should span; what lies outside is clipped."""
        number = method.number or 1.0
        if method.kind == "min/":
            return self.low / number, self.high
        if method.kind == "max/":
            return self.low, max(self.high / number, self.low + 1e-6)
        if method.kind == "max*":
            return self.low, self.high * number
        if method.kind == "minmax" or self.high <= self.low:
            return self.low, self.high
        if method.kind == "mse":
            return self._least_squared_error()
        outside = 1e-4 if method.kind == "percentile" else (100 - number) / 100
        return self._percentiles(outside)

    def _percentiles(self, outside: float) -> tuple[float, float]:
        share, edges = np.cumsum(self.counts) / self.counts.sum(), self._edges
        low = edges[np.searchsorted(share, outside, side="right")]
        high = edges[min(int(np.searchsorted(share, 1 - outside)) + 1, len(self.counts))]
        return float(min(low, 0.0)), float(max(high, 0.0))

    @property
    def _edges(self) -> FloatArray:
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    def _least_squared_error(self) -> tuple[float, float]:
        edges = self._edges
        values = (edges[:-1] + edges[1:]) / 2

        def error(low: float, high: float) -> float:
            if high <= low:
                return np.inf
            step = (high - low) / 255
            clipped = np.clip(values, low, high)
            # Within the range rounding errs by step^2 / 12 on average.
            rounding = self.counts.sum() * step**2 / 12
            return float(self.counts @ ((values - clipped) ** 2) + rounding)

        low, high = min(self.low, 0.0), max(self.high, 0.0)
        fractions = np.linspace(1.0, 0.05, 96)
        for _ in range(2):  # one side after the other, twice
            highs = [float(fraction * max(self.high, 0.0)) for fraction in fractions]
            errors = [error(low, candidate) for candidate in highs]
            high = highs[errors.index(min(errors))]
            lows = [float(fraction * min(self.low, 0.0)) for fraction in fractions]
            errors = [error(candidate, high) for candidate in lows]
            low = lows[errors.index(min(errors))]
        return low, high


def least_error_limits(weights: AnyArray, bits: int) -> Float32Array:
    """For each row of weights the absolute value to clip at, so that rounding errs least.

    The error is the mean squared one of symmetric rounding, minimized by search.

    Args:
        weights: float ``(rows, columns)``.
        bits: of the integers.

    Returns:
        float32 ``(rows,)``.
    """
    levels = 2 ** (bits - 1) - 1
    largest = np.maximum(np.abs(weights).max(axis=1), 1e-12)
    best, limits = np.full(len(weights), np.inf), largest
    for fraction in np.linspace(1.0, 0.4, 31):
        scale = (fraction * largest / levels)[:, None]
        rounded = np.clip(np.rint(weights / scale), -levels, levels) * scale
        error = np.mean((rounded - weights) ** 2, axis=1)
        limits = np.where(error < best, fraction * largest, limits)
        best = np.minimum(best, error)
    rounded_limits: Float32Array = limits.astype(np.float32)
    return rounded_limits


def collect(passes: Iterable[Iterable[Mapping[str, AnyArray]]]) -> dict[str, Distribution]:
    """Distributions of named tensors.

    Args:
        passes: two iterables over the same images, each giving ``{tensor name: values}`` per step;
            the first finds the limits, the second counts.
    """
    first, second = passes
    limits: dict[str, tuple[float, float]] = {}
    for tensors in first:
        for name, values in tensors.items():
            low, high = float(values.min()), float(values.max())
            if name in limits:
                low, high = min(low, limits[name][0]), max(high, limits[name][1])
            limits[name] = (low, high)
    distributions = {
        name: Distribution(low, high, np.zeros(_BINS)) for name, (low, high) in limits.items()
    }
    for tensors in second:
        for name, values in tensors.items():
            _count(distributions[name], values)
    return distributions


def _count(distribution: Distribution, values: AnyArray) -> None:
    span = distribution.high - distribution.low
    if span > 0:
        places = ((values.ravel() - distribution.low) * (_BINS / span)).astype(np.int64)
        distribution.counts += np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)
