"""Ranges: what they promise about errors, on any values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitsd_export.quantization.ranges import MINMAX, MSE, RangeMethod, collect, least_error_limits
from vitsd_runtime import UsageError


def distribution(values):
    return collect(([{"t": values}], [{"t": values}]))["t"]


def squared_error(values, low, high):
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    rounded = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    return np.mean((rounded - values) ** 2)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "laplace", "standard_t"]),
    st.floats(0.01, 100),
)
def test_least_squared_error_is_never_worse_than_minmax_and_better_where_tails_are_heavy(
    seed, kind, scale
):
    random = np.random.default_rng(seed)
    values = scale * (
        random.standard_t(3, 20_000) if kind == "standard_t" else getattr(random, kind)(size=20_000)
    )
    found = distribution(values.astype(np.float32))
    errors = {method: squared_error(values, *found.range(method)) for method in (MINMAX, MSE)}
    assert errors[MSE] <= 1.02 * errors[MINMAX]
    if kind == "standard_t":  # heavy tails
        assert errors[MSE] < 0.98 * errors[MINMAX]


def test_ranges_of_a_worked_example():
    found = distribution(np.arange(-10, 30_001, dtype=np.float32))

    def range_by(method):
        return found.range(RangeMethod.parse(method))

    assert range_by("minmax") == (-10, 30_000)
    low, high = range_by("percentile")
    assert low == pytest.approx(-10, abs=10)
    assert high == pytest.approx(29_997, abs=15)
    assert range_by("max/4") == (-10, 7500)
    assert range_by("max*2") == (-10, 60_000)
    assert range_by("min/2") == (-5, 30_000)
    assert range_by("p99")[1] == pytest.approx(29_700, abs=15)


@pytest.mark.parametrize(
    "text",
    ["minmax", "percentile", "mse", "p99", "p99.9", "p99.99999", "min/4", "max/256", "max*1.25"],
)
def test_range_methods_are_their_texts(text):
    method = RangeMethod.parse(text)
    assert str(method) == text
    assert RangeMethod.parse(str(method)) == method


@pytest.mark.parametrize(
    "text", ["", "mse ", "mean", "max", "max/0", "max/-1", "max/1e9", "min/1.5", "p50", "p100", 4]
)
def test_unknown_range_methods_are_refused(text):
    with pytest.raises(UsageError, match="unknown range method"):
        RangeMethod.parse(text)


def test_several_steps_are_counted_together():
    parts = [np.array([0.0, 1.0]), np.array([5.0, -3.0, 2.0])]
    found = collect(([{"t": p} for p in parts], [{"t": p} for p in parts]))["t"]
    assert (found.low, found.high, found.counts.sum()) == (-3, 5, 5)


@given(st.integers(0, 2**32 - 1))
def test_clipped_weights_err_less(seed):
    weights = np.random.default_rng(seed).standard_t(4, (6, 300)).astype(np.float32)
    limits = least_error_limits(weights, bits=4)

    def error(limit):
        scale = limit[:, None] / 7
        return np.mean((np.clip(np.rint(weights / scale), -7, 7) * scale - weights) ** 2, axis=1)

    largest = np.abs(weights).max(axis=1)
    assert (limits <= largest * (1 + 1e-6)).all()
    assert (error(limits) <= error(largest) * (1 + 1e-6)).all()
