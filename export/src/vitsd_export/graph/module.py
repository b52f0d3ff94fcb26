"""The inference graph as a ``tf.Module``: one function from images to logits.

Built from folded weights as constants; every format is converted from it.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from vitsd_export.graph.float_graph import build_float_logits
from vitsd_export.graph.folding import FoldedVit
from vitsd_export.graph.integer_graph import build_integer_logits
from vitsd_export.graph.ops import Tensor
from vitsd_export.graph.options import GraphOptions
from vitsd_export.graph.preprocessing import preprocess
from vitsd_runtime.spec import ModelSpec

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


def inference_module(
    folded: FoldedVit,
    spec: ModelSpec,
    embed_preprocessing: bool = False,
    options: GraphOptions | None = None,
) -> Any:
    """A ``tf.Module`` whose ``serve`` takes ``images`` and gives ``{"logits": ...}``.

    It has no variables.

    Args:
        folded: the weights.
        spec: the model's.
        embed_preprocessing: ``images`` is uint8 ``(batch, *input_size)``, and the graph normalizes
            and resizes; otherwise it is float32 ``(batch, image_size, image_size, channels)``,
            normalized and resized already.
        options: how the graph is written; with integer masks the batch is 1, otherwise of any
            size.
    """
    options = options or GraphOptions()

    def serve(images: Tensor) -> dict[str, Tensor]:
        if embed_preprocessing:
            images = preprocess(images, spec)
        logits = build_logits(images, folded, options)
        return {OUTPUT_NAME: tf.identity(logits, name=OUTPUT_NAME)}

    module = tf.Module()
    signature = _signature(folded, embed_preprocessing, options)
    module.serve = tf.function(serve, input_signature=[signature])
    return module


def build_logits(images: Tensor, folded: FoldedVit, options: GraphOptions) -> Tensor:
    """Preprocessed float32 images to float32 logits ``(batch, num_classes)``."""
    if options.integer_masks is None:
        return build_float_logits(images, folded, options)
    return build_integer_logits(images, folded, options.integer_masks)


def _signature(folded: FoldedVit, embed_preprocessing: bool, options: GraphOptions) -> Any:
    config = folded.config
    batch = None if options.integer_masks is None else 1
    if embed_preprocessing:
        return tf.TensorSpec((batch, *config.input_size), tf.uint8, name=INPUT_NAME)
    size, channels = config.image_size, config.input_size[2]
    return tf.TensorSpec((batch, size, size, channels), name=INPUT_NAME)
