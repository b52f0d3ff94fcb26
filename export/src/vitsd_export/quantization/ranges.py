"""Which range of real numbers an int8 activation tensor stands for, from what a float model does on calibration images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_BINS = 4096

METHODS = ("minmax", "percentile", "mse")
"""Ways to choose a range, see :meth:`Distribution.range`; there are also ``max/4`` and ``max*2`` with any number."""
METHOD_PATTERN = r"minmax|percentile|mse|p99(\.\d+)?|min/[1-9]\d*|max[/*][1-9]\d*(\.\d+)?"
"""What :meth:`Distribution.range` may be asked for by a file that is not ours."""


@dataclass
class Distribution:
    """A histogram of a tensor's values over all calibration images."""

    low: float
    high: float
    counts: np.ndarray
    """Values in each of the equal parts of ``low`` to ``high``."""

    def range(self, method: str) -> tuple[float, float]:
        """The values that int8 should span; what lies outside is clipped.

        ``minmax`` loses no value; ``percentile`` leaves out one value in 10,000 on each side; ``mse`` clips as much as makes
        the mean squared error of rounding and clipping together smallest (as in Choukroun et al., arXiv:1902.06822, and
        OCTAV, arXiv:2206.06501, here by search). ``max/4`` clips above a quarter of the largest value, ``max*2`` leaves
        room for twice as much.
        """
        if method.startswith("min/"):
            return self.low / float(method[4:]), self.high
        if method.startswith("max/"):
            return self.low, max(self.high / float(method[4:]), self.low + 1e-6)
        if method.startswith("max*"):
            return self.low, self.high * float(method[4:])
        if method.startswith("p9"):
            return self._percentiles((100 - float(method[1:])) / 100)
        if method == "minmax" or self.high <= self.low:
            return self.low, self.high
        if method == "percentile":
            return self._percentiles(1e-4)
        return self._least_squared_error()

    def _percentiles(self, outside: float) -> tuple[float, float]:
        if self.high <= self.low:
            return self.low, self.high
        share, edges = np.cumsum(self.counts) / self.counts.sum(), self._edges
        low = edges[np.searchsorted(share, outside, side="right")]
        high = edges[min(np.searchsorted(share, 1 - outside) + 1, len(self.counts))]
        return float(min(low, 0.0)), float(max(high, 0.0))

    @property
    def _edges(self) -> np.ndarray:
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    def _least_squared_error(self) -> tuple[float, float]:
        edges = self._edges
        values = (edges[:-1] + edges[1:]) / 2

        def error(low, high):
            step = (high - low) / 255
            clipped = np.clip(values, low, high)
            # Within the range rounding errs by step^2 / 12 on average.
            return self.counts @ ((values - clipped) ** 2) + self.counts.sum() * step**2 / 12

        low, high = min(self.low, 0.0), max(self.high, 0.0)
        fractions = np.linspace(1.0, 0.05, 96)
        for _ in range(2):  # one side after the other, twice
            high = min(
                (f * max(self.high, 0.0) for f in fractions),
                key=lambda h: error(low, h) if h > low else np.inf,
            )
            low = min(
                (f * min(self.low, 0.0) for f in fractions),
                key=lambda v: error(v, high) if v < high else np.inf,
            )
        return float(low), float(high)


def least_error_limits(weights: np.ndarray, bits: int) -> np.ndarray:
    """For each row of ``weights`` the absolute value to clip at, so that symmetric rounding to ``bits`` errs least.

    Returns:
        float32 ``(rows,)``. The error is the mean squared one, found by search.
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
    return limits.astype(np.float32)


def collect(passes: Iterable[Iterable[dict[str, np.ndarray]]]) -> dict[str, Distribution]:
    """Distributions of named tensors.

    Args:
        passes: two iterables over the same images, each giving ``{tensor name: values}`` per step; the first finds the
            limits, the second counts.
    """
    first, second = passes
    limits: dict[str, tuple[float, float]] = {}
    for tensors in first:
        for name, values in tensors.items():
            low, high = float(values.min()), float(values.max())
            if name in limits:
                low, high = min(low, limits[name][0]), max(high, limits[name][1])
            limits[name] = (low, high)
    found = {name: Distribution(low, high, np.zeros(_BINS)) for name, (low, high) in limits.items()}
    for tensors in second:
        for name, values in tensors.items():
            distribution = found[name]
            span = distribution.high - distribution.low
            if span > 0:
                places = ((values.ravel() - distribution.low) * (_BINS / span)).astype(np.int64)
                distribution.counts += np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)
    return found
