"""Infer a model's architecture from the kinds, order and shapes of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitsd.config import VitConfig
from vitsd_export.keras2.checkpoint import Layer
from vitsd_runtime.errors import VitsdError

_SHIFTED_VIEWS = 5
"""Images that Shifted Patch Tokenization cuts patches from: the image and four shifted copies."""


@dataclass(frozen=True)
class _Structure:
    """How many layers of each kind there are."""

    num_layers: int
    """Transformer blocks."""
    mlp: int
    """Dense layers of a block."""
    head: int
    """Dense layers after the blocks, the last being the logits."""


def infer_config(body: Sequence[Layer], input_size: tuple[int, int, int]) -> VitConfig:
    """The architecture of a model.

    What its variables leave open (``lsa`` and ``layer_norm_epsilon``) keeps its default.

    Args:
        body: its layers, without the statistics of a normalization.
        input_size: height, width and channels that it takes.

    Raises:
        VitsdError: the layers are not those of the public example.
    """
    structure = _infer_structure([layer.kind for layer in body])
    tokenization, embedding, _, attention = body[:4]
    tokens, hidden_dim = embedding.get("embeddings").shape
    shifted = tokenization.has("gamma")
    patch_values = tokenization.get("projection/kernel").shape[0]
    views = _SHIFTED_VIEWS if shifted else 1
    patch_size = round((patch_values / (input_size[2] * views)) ** 0.5)
    num_heads, key_dim = attention.get("_query_dense/kernel").shape[1:]
    dense = [layer.get("kernel").shape for layer in body if layer.kind == "dense"]
    head = dense[-structure.head :]
    return VitConfig(
        input_size=input_size,
        num_classes=head[-1][1],
        image_size=round(tokens**0.5) * patch_size,
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        num_layers=structure.num_layers,
        num_heads=num_heads,
        key_dim=key_dim,
        mlp_units=tuple(units for _, units in dense[: structure.mlp]),
        head_units=tuple(units for _, units in head[:-1]),
        pooling="flatten" if head[0][0] == tokens * hidden_dim else "gap",
        spt=shifted,
    )


def _infer_structure(kinds: list[str]) -> _Structure:
    blocks = kinds.count("attention")
    # Tokenization and embedding, then the first block's norm, attention and norm, and its MLP.
    after = kinds[5:]
    mlp = next((i for i, kind in enumerate(after) if kind != "dense"), 0) if blocks else 0
    head = len(kinds) - (2 + blocks * (3 + mlp) + 1)
    expected = [
        "tokenization",
        "embedding",
        *["norm", "attention", "norm", *["dense"] * mlp] * blocks,
        "norm",
        *["dense"] * head,
    ]
    if not blocks or not mlp or head < 1 or kinds != expected:
        raise VitsdError(
            "The SavedModel is not a ViT of the public example: its layers with variables are "
            f"{', '.join(kinds[:12])} ..."
        )
    return _Structure(blocks, mlp, head)
