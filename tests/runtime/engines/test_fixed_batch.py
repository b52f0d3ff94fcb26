"""Batches of any size in parts of a fixed size."""

import numpy as np
import pytest

from vitsd_runtime.engines.fixed_batch import run_in_parts


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [1]),
        (2, [1, 1]),  # less work than a full batch
        (3, [4]),
        (4, [4]),
        (5, [4, 1]),
        (11, [4, 4, 4]),
    ],
)
def test_full_batches_and_a_rest(count, sizes):
    seen = []

    def invoke(part):
        seen.append(len(part))
        return part * np.float32(2)

    batch = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    np.testing.assert_array_equal(run_in_parts(batch, 4, invoke), 2 * batch)
    assert seen == sizes
