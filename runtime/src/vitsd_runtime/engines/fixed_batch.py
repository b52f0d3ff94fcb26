"""Batches of any size, for engines that compile a model for one."""

from __future__ import annotations

from typing import Callable

import numpy as np

from vitsd_runtime.types import AnyArray, Float32Array


def run_in_parts(
    batch: AnyArray, size: int, invoke: Callable[[AnyArray], Float32Array]
) -> Float32Array:
    """Run a batch as full batches and single images, so that nothing is compiled anew.

    A rest is padded to a full batch, or run one by one where that is less work.

    Args:
        batch: images ``(n, ...)``, ``n >= 1``.
        size: of a full batch.
        invoke: runs exactly ``size`` images, or exactly one.

    Returns:
        float32 logits ``(n, classes)``.
    """
    full = len(batch) - len(batch) % size
    rest = batch[full:]
    parts = [invoke(batch[i : i + size]) for i in range(0, full, size)]
    if 2 * len(rest) > size:
        padding = np.zeros((size - len(rest), *rest.shape[1:]), rest.dtype)
        parts.append(invoke(np.concatenate([rest, padding]))[: len(rest)])
    else:
        parts.extend(invoke(rest[i : i + 1]) for i in range(len(rest)))
    return np.concatenate(parts)
