"""Names of the model's layers: the contract between trainer, explanations and exporter.

Weights are found in a file by these names, so a changed name makes every trained model unreadable.
"""

from __future__ import annotations

NORMALIZATION = "normalization"
RESIZING = "resizing"
TOKENIZATION = "tokenization"
POSITION_EMBEDDING = "position_embedding"
FINAL_NORM = "norm"
TOKEN_POOLING = "token_pooling"
"""Between two blocks."""
POOLING = "pooling"
"""In front of the head."""
LOGITS = "logits"
"""The last layer, whose size is the number of classes."""


def convolution(layer: int) -> str:
    """A convolution in the tokenization."""
    return f"convolution_{layer}"


def batch_norm(layer: int) -> str:
    """Batch normalization after a convolution in the tokenization."""
    return f"batch_norm_{layer}"


def attention(block: int) -> str:
    """Locality Self-Attention of a block."""
    return f"block_{block}_attention"


def attention_norm(block: int) -> str:
    """LayerNorm in front of a block's attention."""
    return f"block_{block}_norm_1"


def mlp_norm(block: int) -> str:
    """LayerNorm in front of a block's MLP."""
    return f"block_{block}_norm_2"


def mlp_branch(block: int) -> str:
    """Stem of the layers that join a block's MLP to the residual stream."""
    return f"block_{block}_mlp"


def mlp(block: int, layer: int) -> str:
    """A dense layer of a block's MLP."""
    return f"block_{block}_mlp_{layer}"


def mlp_convolution(block: int) -> str:
    """The depthwise convolution of a block's MLP."""
    return f"block_{block}_mlp_convolution"


def head(layer: int) -> str:
    """A hidden dense layer of the classification head."""
    return f"head_{layer}"


def dropout(layer: str) -> str:
    """Dropout behind a layer."""
    return f"{layer}_dropout"


def drop_path(branch: str) -> str:
    """Stochastic depth at the end of a branch."""
    return f"{branch}_drop_path"


def add(branch: str) -> str:
    """Where a branch is added to the residual stream."""
    return f"{branch}_add"
