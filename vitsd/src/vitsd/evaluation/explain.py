"""What a model looks at: its shifted patches, the attention of every block, the temperatures that it has learned."""

from __future__ import annotations

import os
from dataclasses import dataclass

import keras
import numpy as np

from vitsd.config import VitConfig
from vitsd_runtime.classifier import softmax
from vitsd_runtime.images.loading import load_image
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.spec import ModelSpec


@dataclass(frozen=True)
class Explanation:
    """Of one image. ``grid`` is the number of tokens on a side, ``tokens`` its square."""

    image: np.ndarray
    """uint8 ``(height, width, channels)``, as it was brought to the model's input size."""
    views: np.ndarray
    """float32 ``(5 or 1, size, size, channels)``, 0 to 1: what the patches are cut from, the image first."""
    grid: int
    attention: np.ndarray
    """float32 ``(depth, heads, tokens, tokens)``: of each token (row) to each token (column)."""
    rollout: np.ndarray
    """float32 ``(depth, tokens)``: how much of each token's image has reached the features, up to and with each block."""
    temperatures: np.ndarray | None
    """``(depth,)`` relative to the initial ``sqrt(key_dim)``: below 1 is sharper. None without Locality Self-Attention."""
    labels: tuple[str, ...]
    probabilities: np.ndarray
    """The most probable classes, and how probable."""


def explain(
    model: keras.Model, spec: ModelSpec, image: str | os.PathLike | np.ndarray, top_k: int = 5
) -> Explanation:
    """Look into a model while it classifies an image.

    Args:
        model, spec: as :func:`vitsd.load_model` gives them.
        image: a file, or a uint8 array.
        top_k: how many classes are kept.

    Raises:
        VitsdError: the image can't be read.
    """
    config = VitConfig.from_spec(spec)
    pixels = load_image(image, spec.input_size, spec.resize_mode)
    attentions = [model.get_layer(f"block_{i}_attention") for i in range(config.num_layers)]
    normed = [model.get_layer(f"block_{i}_norm_1").output for i in range(config.num_layers)]
    *tokens, logits = keras.Model(model.input, [*normed, model.output]).predict_on_batch(
        pixels[None]
    )
    weights = [
        keras.ops.convert_to_numpy(layer.attention(keras.ops.convert_to_tensor(stream)))[0]
        for layer, stream in zip(attentions, tokens, strict=True)
    ]
    temperatures = None
    if config.lsa:
        temperatures = np.array(
            [float(keras.ops.convert_to_numpy(layer.tau)) for layer in attentions]
        )
        temperatures /= config.key_dim**0.5
    probabilities = softmax(np.asarray(logits, np.float64))[0]
    best = probabilities.argsort()[::-1][:top_k]
    return Explanation(
        image=pixels,
        views=_views(model, config, spec, pixels),
        grid=config.image_size // config.patch_size,
        attention=np.stack(weights),
        rollout=rollout(np.stack(weights)),
        temperatures=temperatures,
        labels=tuple(spec.class_names[i] for i in best),
        probabilities=probabilities[best],
    )


def rollout(attention: np.ndarray) -> np.ndarray:
    """Attention rollout (S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", arXiv:2005.00928, section 3).

    Half of what a block passes on is its input, because the attention is added to it, so a block mixes tokens by
    ``(A + I) / 2``, A being the mean over its heads; the product over the blocks says what reached each token. All tokens
    count equally in the features, so the mean is taken over them.

    Args:
        attention: ``(depth, heads, tokens, tokens)``.

    Returns:
        ``(depth, tokens)``; each row sums to 1.
    """
    tokens = attention.shape[-1]
    flow, rows = np.eye(tokens), []
    for weights in attention.mean(axis=1):
        flow = (weights + np.eye(tokens)) / 2 @ flow
        rows.append(flow.mean(axis=0))
    return np.stack(rows).astype(np.float32)


def _views(model, config: VitConfig, spec: ModelSpec, pixels: np.ndarray) -> np.ndarray:
    """The image and its shifted copies as the tokenizer makes them, in colours again."""
    seen = preprocess(pixels[None], spec.replace(export={}))
    views = [seen]
    if config.spt:
        copies = model.get_layer("tokenization").shifted_copies(keras.ops.convert_to_tensor(seen))
        views += [keras.ops.convert_to_numpy(copy) for copy in copies]
    colours = np.concatenate(views) * np.sqrt(np.asarray(spec.variance)) + np.asarray(spec.mean)
    # Where a copy was shifted out of the image it is 0, the mean colour.
    return np.clip(colours / 255, 0, 1).astype(np.float32)
