"""Images to tokens: patches, with those of four shifted copies beside them, or convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vitsd.config import VitConfig
from vitsd_export.graph import layer_names
from vitsd_export.graph.folding import Convolution, Dense, FoldedVit
from vitsd_export.graph.ops import Tensor, convolution
from vitsd_runtime.types import FloatArray


def convolve(
    images: Tensor,
    folded: FoldedVit,
    tokenization: Convolution,
    activation: Callable[[Tensor], Tensor] = tf.nn.relu,
) -> Tensor:
    """A grid of tokens, without the bias of the last convolution.

    Args:
        images: preprocessed float32 ``(batch, image_size, image_size, channels)``.
        folded: the weights.
        tokenization: the last convolution.
        activation: ReLU, which follows all the others.

    Returns:
        float32 ``(batch, rows, columns, hidden_dim)``.
    """
    for i, layer in enumerate(folded.stem):
        images = activation(convolution(images, layer, layer_names.convolution(i)))
    unbiased = dataclasses.replace(tokenization, bias=np.zeros_like(tokenization.bias))
    return convolution(images, unbiased, layer_names.TOKENIZATION)


def cut_patches(
    images: Tensor, folded: FoldedVit, tokenization: Dense
) -> tuple[Tensor, FloatArray]:
    """Flattened patches, and the projection's kernel with its rows in their order.

    Args:
        images: preprocessed float32 ``(batch, image_size, image_size, channels)``.
        folded: the weights.
        tokenization: the projection.

    Returns:
        float32 ``(batch, tokens, features)``, and float64 ``(features, hidden_dim)``.
    """
    config, kernel = folded.config, tokenization.kernel
    if not config.spt:
        # Flattens a patch in (row, column, channel) order, the order of the projection's rows.
        patches = _space_to_depth(images, config.patch_size)
    elif config.patch_size % 2 == 0:
        patches = _shifted_by_half_a_patch(images, config.patch_size)
        kernel = _image_by_image(kernel, config)
    else:
        patches = _shifted(images, config)
    return tf.reshape(patches, (-1, config.tokens, kernel.shape[0])), kernel


def _shifted_by_half_a_patch(images: Tensor, patch: int) -> Tensor:
    """For even sizes: the copies' patches are the same, on a grid with one row and column more."""
    grid = _space_to_depth(_padded(images, patch // 2), patch)
    corners = (grid[:, 1:, 1:], grid[:, :-1, 1:], grid[:, 1:, :-1], grid[:, :-1, :-1])
    return tf.concat([_space_to_depth(images, patch), *corners], axis=3)


def _image_by_image(kernel: FloatArray, config: VitConfig) -> FloatArray:
    """The projection's rows, which have the five images within a pixel, image by image."""
    pixels = config.patch_size**2
    per_pixel = kernel.reshape(pixels, 5, config.input_size[2], config.hidden_dim)
    return per_pixel.transpose(1, 0, 2, 3).reshape(kernel.shape)


def _shifted(images: Tensor, config: VitConfig) -> Tensor:
    half, size = config.patch_size // 2, config.image_size
    padded = _padded(images, half)
    offsets = ((2 * half, 2 * half), (0, 2 * half), (2 * half, 0), (0, 0))
    shifted = [padded[:, top : top + size, left : left + size, :] for top, left in offsets]
    return _space_to_depth(tf.concat([images, *shifted], axis=3), config.patch_size)


def _padded(images: Tensor, by: int) -> Tensor:
    """Images with ``by`` zeros around them; by whole rows, three times as fast in TFLite."""
    _, height, width, channels = images.shape
    rows = tf.reshape(images, (-1, height, width * channels))
    padded = tf.pad(rows, ((0, 0), (by, by), (by * channels, by * channels)))
    return tf.reshape(padded, (-1, height + 2 * by, width + 2 * by, channels))


def _space_to_depth(images: Tensor, block: int) -> Tensor:
    return tf.nn.space_to_depth(images, block) if block > 1 else images
