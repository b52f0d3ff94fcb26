"""The plain model in PyTorch, as one would write it there, with the weights of the Keras model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vitsd.config import BATCH_NORM_EPSILON, VitConfig
from vitsd.model import names
from vitsd_export.graph.weights import read_weights
from vitsd_runtime.errors import UsageError
from vitsd_runtime.types import Float32Array

Weights = Mapping[str, Float32Array]
_ACTIVATIONS = {"gelu": functional.gelu, "relu": functional.relu}
_DIAGONAL = -1e9
"""Added to what a token scores with itself, as in the Keras model."""


def import_model(model: Any, config: VitConfig) -> nn.Module:
    """A module from preprocessed images ``(batch, size, size, channels)`` to logits.

    Args:
        model: the Keras model.
        config: its architecture.

    Raises:
        UsageError: it has convolutions in its MLPs.
    """
    if config.mlp_convolution:
        raise UsageError("Convolutions in an MLP are not imported.")
    return _Vit(read_weights(model, config), config).eval()


def _linear(weights: Weights, name: str) -> nn.Linear:
    """A dense layer; heads are axes of their own in Keras' kernels, here they are flattened."""
    bias = weights[f"{name}/bias"].reshape(-1)
    kernel = weights[f"{name}/kernel"].reshape(-1, bias.size)
    layer = nn.Linear(*kernel.shape)
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.T))
    layer.bias.data = torch.from_numpy(bias.copy())
    return layer


def _query_linear(weights: Weights, name: str) -> nn.Linear:
    kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
    hidden = kernel.shape[0]
    return _linear(
        {f"{name}/kernel": kernel.reshape(hidden, -1), f"{name}/bias": bias.reshape(-1)}, name
    )


def _norm(weights: Weights, name: str, epsilon: float) -> nn.LayerNorm:
    gamma = weights[f"{name}/gamma"]
    layer = nn.LayerNorm(gamma.shape, eps=epsilon)
    layer.weight.data = torch.from_numpy(gamma.copy())
    layer.bias.data = torch.from_numpy(weights[f"{name}/beta"].copy())
    return layer


class _Tokenization(nn.Module):
    """Shifted patch tokenization (arXiv 2112.13492), or plain patches."""

    def __init__(self, weights: Weights, config: VitConfig) -> None:
        super().__init__()
        name = names.TOKENIZATION
        self.patch, self.shifted = config.patch_size, config.spt
        self.grid = config.image_size // config.patch_size
        if self.shifted:
            self.norm = _norm(weights, f"{name}/norm", config.layer_norm_epsilon)
        self.projection = _linear(weights, f"{name}/projection")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.shifted:
            images = torch.cat([images, *self._shifted_copies(images)], -1)
        # Of four axes at most: mobile engines know no more.
        grid, patch, length = self.grid, self.patch, self.patch * images.shape[3]
        rows = images.reshape(-1, patch, grid, length).transpose(1, 2)
        patches = rows.reshape(-1, grid**2, patch * length)
        tokens: torch.Tensor = self.projection(self.norm(patches) if self.shifted else patches)
        return tokens

    def _shifted_copies(self, images: torch.Tensor) -> list[torch.Tensor]:
        half, size = self.patch // 2, images.shape[1]
        padded = functional.pad(images, (0, 0, half, half, half, half))
        far = 2 * half
        places = ((far, far), (0, far), (far, 0), (0, 0))
        return [padded[:, y : y + size, x : x + size] for y, x in places]


class _ConvolutionalTokenization(nn.Module):
    """Overlapping convolutions with batch normalization (arXiv 2104.05704)."""

    def __init__(self, weights: Weights, config: VitConfig) -> None:
        super().__init__()
        strides = config.stem_strides
        layers = (_convolution(weights, i, stride) for i, stride in enumerate(strides))
        self.convolutions = nn.ModuleList(layers)
        self.norms = nn.ModuleList(_batch_norm(weights, i) for i in range(len(strides)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.permute(0, 3, 1, 2)
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            images = functional.relu(images) if i else images
            # Keras pads even sides only behind them where the stride is 2.
            before = int(convolution.stride[0] == 1)
            images = norm(convolution(functional.pad(images, (before, 1, before, 1))))
        return images.flatten(2).transpose(1, 2)


def _convolution(weights: Weights, layer: int, stride: int) -> nn.Conv2d:
    kernel = weights[f"{names.TOKENIZATION}/{names.convolution(layer)}/kernel"]
    convolution = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, stride, bias=False)
    convolution.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
    return convolution


def _batch_norm(weights: Weights, layer: int) -> nn.BatchNorm2d:
    name = f"{names.TOKENIZATION}/{names.batch_norm(layer)}"
    of_torch = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    norm = nn.BatchNorm2d(weights[f"{name}/gamma"].size, eps=BATCH_NORM_EPSILON)
    norm.load_state_dict(
        {key: torch.from_numpy(weights[f"{name}/{part}"].copy()) for key, part in of_torch.items()},
        strict=False,
    )
    return norm


class _Attention(nn.Module):
    """Locality self-attention (same paper), or plain attention."""

    def __init__(self, weights: Weights, config: VitConfig, block: int) -> None:
        super().__init__()
        name = names.attention(block)
        self.heads, self.key_dim = config.num_heads, config.key_dim
        parts = ("query", "key", "value")
        self.query, self.key, self.value = (
            _query_linear(weights, f"{name}/{part}") for part in parts
        )
        self.projection = _linear(weights, f"{name}/projection")
        self.scale = 1 / float(weights[f"{name}/tau"] if config.lsa else self.key_dim**0.5)
        mask = _DIAGONAL * torch.eye(config.block_tokens(block)) if config.lsa else None
        self.register_buffer("mask", mask)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self._split(layer(tokens)) for layer in (self.query, self.key, self.value)
        )
        found = functional.scaled_dot_product_attention(
            query, key, value, self.mask, scale=self.scale
        )
        joined = found.transpose(1, 2).reshape(-1, tokens.shape[1], self.heads * self.key_dim)
        attended: torch.Tensor = self.projection(joined)
        return attended

    def _split(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(-1, values.shape[1], self.heads, self.key_dim).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, weights: Weights, config: VitConfig, block: int) -> None:
        super().__init__()
        epsilon = config.layer_norm_epsilon
        self.first_norm = _norm(weights, names.attention_norm(block), epsilon)
        self.attention = _Attention(weights, config, block)
        self.second_norm = _norm(weights, names.mlp_norm(block), epsilon)
        layers = range(len(config.mlp_units))
        self.mlp = nn.ModuleList([_linear(weights, names.mlp(block, i)) for i in layers])
        self.activation = _ACTIVATIONS[config.activation]
        self.activated = len(layers) - (not config.mlp_output_activation)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(self.first_norm(tokens))
        branch = self.second_norm(tokens)
        for i, layer in enumerate(self.mlp):
            branch = layer(branch)
            branch = self.activation(branch) if i < self.activated else branch
        return tokens + branch


class _TokenPooling(nn.Module):
    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        half, size = self.grid // 2, tokens.shape[2]
        means = tokens.reshape(-1, half, 2, half, 2, size).mean((2, 4))
        return means.reshape(-1, half * half, size)


class _Vit(nn.Module):
    def __init__(self, weights: Weights, config: VitConfig) -> None:
        super().__init__()
        tokenization = _ConvolutionalTokenization if config.stem_filters else _Tokenization
        self.tokenization = tokenization(weights, config)
        self.position = nn.Parameter(
            torch.from_numpy(weights[f"{names.POSITION_EMBEDDING}/embedding"].copy())
        )
        blocks: list[nn.Module] = [_Block(weights, config, i) for i in range(config.num_layers)]
        if config.pool_tokens_after:
            blocks.insert(config.pool_tokens_after, _TokenPooling(config.grid))
        self.blocks = nn.Sequential(*blocks)
        self.norm = _norm(weights, names.FINAL_NORM, config.layer_norm_epsilon)
        heads = [names.head(i) for i in range(len(config.head_units))]
        self.head = nn.ModuleList([_linear(weights, name) for name in heads])
        self.logits = _linear(weights, names.LOGITS)
        self.flatten = config.pooling == "flatten"
        self.activation = _ACTIVATIONS[config.activation]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.blocks(self.tokenization(images) + self.position))
        features = tokens.flatten(1) if self.flatten else tokens.mean(1)
        for layer in self.head:
            features = self.activation(layer(features))
        logits: torch.Tensor = self.logits(features)
        return logits
