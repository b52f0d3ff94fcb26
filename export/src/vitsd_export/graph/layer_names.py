"""Names of the layers with weights: the contract of graph, converters, quantizers and recipes.

A graph builds each dense layer and convolution in a scope of this name, the converters keep scopes
as the first part of their tensors' and nodes' names, and the quantizers find the layers by it.
"""

from __future__ import annotations

from collections.abc import Iterator

from vitsd.model.names import LOGITS, TOKENIZATION, convolution, head, mlp
from vitsd_export.graph.folding import FoldedVit
from vitsd_runtime.types import FloatArray

# Layers that folding leaves one to one have the names that they have in Keras.
__all__ = [
    "LOGITS",
    "PATCHES",
    "TOKENIZATION",
    "convolution",
    "head",
    "kernels",
    "key",
    "mlp",
    "output",
    "query",
    "scope_of",
    "value",
]

PATCHES = "patches"
"""The scope before the first dense layer, with the norm of the patches."""


def query(block: int) -> str:
    """Of block number ``block``, as all below."""
    return f"block_{block}_query"


def key(block: int) -> str:
    """Absent where query and key are merged."""
    return f"block_{block}_key"


def value(block: int) -> str:
    """Absent where value and output are merged."""
    return f"block_{block}_value"


def output(block: int) -> str:
    """The layer after attention."""
    return f"block_{block}_output"


def kernels(folded: FoldedVit) -> Iterator[tuple[str, FloatArray]]:
    """Of the dense layers and convolutions, by name, in the order of the graph."""
    for i, stem in enumerate(folded.stem):
        yield convolution(i), stem.kernel
    yield TOKENIZATION, folded.tokenization.kernel
    for i, block in enumerate(folded.blocks):
        attention = block.attention
        yield query(i), attention.query.kernel
        if attention.key is not None and attention.value is not None:
            yield key(i), attention.key.kernel
            yield value(i), attention.value.kernel
        yield output(i), attention.output.kernel
        for j, layer in enumerate(block.mlp):
            yield mlp(i, j), layer.kernel
    for i, layer in enumerate(folded.head[:-1]):
        yield head(i), layer.kernel
    yield LOGITS, folded.head[-1].kernel


def scope_of(name: str) -> str:
    """The scope in a converted tensor's or node's name.

    The converter names an operation that it fused from several after all of them, in order.
    """
    return name.split(";")[0].split("/")[0]
