"""Masks for quantized scores, which can't hold one of -1e9 beside values of a few units."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vitsd_export.graph.float_graph import build_float_logits
from vitsd_export.graph.folding import FoldedVit
from vitsd_export.graph.ops import Tensor
from vitsd_runtime.types import Float32Array, FloatArray

_OWN_WEIGHT = 1e-6
"""Largest attention of a token to itself that a mask may leave."""
_BATCH = 16


def bounded_masks(images: Float32Array, folded: FoldedVit) -> tuple[float, ...]:
    """For each block the least negative mask that leaves a token 1e-6 of attention to itself.

    In float it is as good as minus infinity, and it does not take the whole range of quantized
    scores, as -1e9 would.

    Args:
        images: preprocessed float32 calibration images ``(n, ...)``.
        folded: the weights.
    """
    config = folded.config
    if not config.lsa:
        return (0.0,) * config.num_layers  # ordinary attention has no masks
    excess = [-np.inf] * config.num_layers

    def observe(block: int, scores: Tensor) -> None:
        values = scores.numpy().astype(np.float64)
        excess[block] = max(excess[block], _own_excess(values, config.num_heads))

    for start in range(0, len(images), _BATCH):
        build_float_logits(tf.constant(images[start : start + _BATCH]), folded, observer=observe)
    return tuple(float(np.floor(np.log(_OWN_WEIGHT) - value)) for value in excess)


def _own_excess(scores: FloatArray, heads: int) -> float:
    """By how much a token's score for itself exceeds those for all others together, at most.

    Together: the logarithm of their summed exponentials.
    """
    tokens = scores.shape[-1]
    if scores.ndim == 3:
        by_token = scores.reshape(-1, tokens, heads, tokens)
        scores = by_token.transpose(0, 2, 1, 3)
    own = np.einsum("bhtt->bht", scores)
    others = np.where(np.eye(tokens, dtype=bool), -np.inf, scores)
    best = others.max(axis=-1, keepdims=True)
    return float((own - np.log(np.exp(others - best).sum(axis=-1)) - best[..., 0]).max())
