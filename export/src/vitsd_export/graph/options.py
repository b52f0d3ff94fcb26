"""What differs between the graphs that are built from the same weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GraphOptions:
    """How the graph writes what can be written in several equal ways.

    All options give the same logits in float. Measured on x86-64 with AVX-512, one thread
    (``make bench``).
    """

    exp_attention: bool = False
    """Softmax as exp, sum and one division of the attended values, where the weights prove that
    exp can't overflow. Saves the search for each row's largest score, and the division of the
    whole score matrix. Faster in XNNPACK where rows leave a vector register partly empty, which its
    softmax handles slowly (36 tokens: 15 % of the whole model; 64 or 144 tokens: nothing)."""
    flat: bool = False
    """The tokens of all images as rows of one matrix ``(batch * tokens, hidden_dim)``, and norms
    that remove the mean themselves instead of a stream without one. For onnxruntime, whose product
    of matrices adds the bias and whose operation for a norm takes the mean anyway: ``vit-edge``
    takes 5 % less time in float32, 8 % with dynamic layers, 19 % with static ones."""
    mask: float = -1e9
    """Added to a token's score for itself, in float graphs: as good as minus infinity."""
    integer_masks: tuple[float, ...] | None = None
    """For integer-only files: a bounded mask for each block (see
    :mod:`vitsd_export.graph.masks`). The graph is then the one of
    :mod:`vitsd_export.graph.integer_graph`."""
