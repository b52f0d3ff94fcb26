"""What a model looks at: shifted patches, every block's attention, learned temperatures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt

from vitsd.config import VitConfig
from vitsd.model import names
from vitsd_runtime.classifier import DEFAULT_TOP_K, softmax
from vitsd_runtime.images.loading import load_for_model
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import AnyArray, Float32Array, FloatArray, PathLike, UInt8Array


@dataclass(frozen=True)
class Explanation:
    """What a model saw in one image, and what it answered."""

    image: UInt8Array
    """``(height, width, channels)``, brought to the model's input size."""
    views: Float32Array
    """``(5 or 1, size, size, channels)``, 0 to 1: what the patches are cut from, the image
    first."""
    grid: int
    """Tokens on a side; below, ``tokens`` is its square."""
    attention: tuple[Float32Array, ...]
    """Of each block ``(heads, tokens, tokens)``: of each token (row) to each token (column). Behind
    pooling there is a quarter of the tokens."""
    rollout: Float32Array
    """``(blocks, tokens)``: how much of each token's image has reached the features, up to and
    including each block."""
    temperatures: npt.NDArray[np.float64] | None
    """``(blocks,)`` relative to the initial ``sqrt(key_dim)``: below 1 is sharper. None without
    Locality Self-Attention."""
    labels: tuple[str, ...]
    """The most probable classes, the most probable one first."""
    probabilities: npt.NDArray[np.float64]
    """Of ``labels``, in 0..1."""


def explain(
    model: keras.Model,
    spec: ModelSpec,
    image: PathLike | UInt8Array,
    top_k: int = DEFAULT_TOP_K,
) -> Explanation:
    """Look into a model while it classifies an image.

    Args:
        model: as :func:`vitsd.load_model` gives it.
        spec: of the model.
        image: a file, or an array ``(height, width[, channels])`` of any size.
        top_k: how many classes are kept.

    Raises:
        UsageError: there is no such image.
        VitsdError: the image can't be read.
    """
    config = VitConfig.from_spec(spec)
    pixels = load_for_model(image, spec)
    attention, logits = _attention(model, config, pixels)
    probabilities = softmax(np.asarray(logits, np.float64), spec.temperature)
    best = probabilities.argsort()[::-1][:top_k]
    return Explanation(
        image=pixels,
        views=_views(model, config, spec, pixels),
        grid=config.grid,
        attention=attention,
        rollout=rollout(attention),
        temperatures=_temperatures(model, config),
        labels=tuple(spec.class_names[i] for i in best),
        probabilities=probabilities[best],
    )


def rollout(attention: Sequence[AnyArray]) -> Float32Array:
    """Attention rollout: how much of each token has reached the features.

    S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", arXiv:2005.00928, section
    3. Half of what a block passes on is its input, because the attention is added to it, so a
    block mixes tokens by ``(A + I) / 2``, A being the mean over its heads; the product over the
    blocks says what reached each token. All tokens count equally in the features, so the mean is
    taken over them. Where tokens are pooled, a token passes on the mean of four.

    Args:
        attention: of each block ``(heads, tokens, tokens)``, behind pooling ``tokens / 4``.

    Returns:
        ``(blocks, tokens)``, tokens of the first block; each row sums to 1.
    """
    flow, rows = np.eye(attention[0].shape[-1]), []
    for weights in attention:
        tokens = weights.shape[-1]
        if tokens < len(flow):
            flow = _pooled(flow)
        flow = (weights.mean(axis=0) + np.eye(tokens)) / 2 @ flow
        rows.append(flow.mean(axis=0))
    return np.asarray(rows, np.float32)


def _pooled(flow: FloatArray) -> FloatArray:
    """The mean of each 2x2 rows on the grid of tokens."""
    half = math.isqrt(len(flow)) // 2
    pooled: FloatArray = flow.reshape(half, 2, half, 2, -1).mean(axis=(1, 3))
    return pooled.reshape(half * half, -1)


def _attention(
    model: keras.Model, config: VitConfig, pixels: UInt8Array
) -> tuple[tuple[Float32Array, ...], Float32Array]:
    """Attention weights of every block, and the logits ``(classes,)``."""
    blocks = range(config.num_layers)
    inputs = [model.get_layer(names.attention_norm(block)).output for block in blocks]
    *tokens, logits = keras.Model(model.input, [*inputs, model.output]).predict_on_batch(
        pixels[None]
    )
    weights = [
        model.get_layer(names.attention(block)).attention(keras.ops.convert_to_tensor(stream))
        for block, stream in zip(blocks, tokens, strict=True)
    ]
    return tuple(keras.ops.convert_to_numpy(one)[0] for one in weights), logits[0]


def _temperatures(model: keras.Model, config: VitConfig) -> npt.NDArray[np.float64] | None:
    if not config.lsa:
        return None
    layers = [model.get_layer(names.attention(block)) for block in range(config.num_layers)]
    tau = [float(keras.ops.convert_to_numpy(layer.tau)) for layer in layers]
    return np.array(tau) / math.sqrt(config.key_dim)


def _views(
    model: keras.Model, config: VitConfig, spec: ModelSpec, pixels: UInt8Array
) -> Float32Array:
    """The image and its shifted copies as the tokenizer makes them, with their colors restored."""
    seen = preprocess(pixels[None], spec)
    views = [seen]
    if config.spt:
        tokenization = model.get_layer(names.TOKENIZATION)
        copies = tokenization.shifted_copies(keras.ops.convert_to_tensor(seen))
        views += [keras.ops.convert_to_numpy(copy) for copy in copies]
    # Where a copy was shifted out of the image it is 0, the mean color.
    colors = np.concatenate(views) * np.sqrt(np.asarray(spec.variance)) + np.asarray(spec.mean)
    return np.asarray(np.clip(colors / 255, 0, 1), np.float32)
