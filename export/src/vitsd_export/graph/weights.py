"""Read a Keras model's weights under stable names, checked against its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitsd.config import VitConfig
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.types import Float32Array


def read_weights(
    model: Any, config: VitConfig, check_shapes: bool = True
) -> dict[str, Float32Array]:
    """The weights by their paths, without the model's own name.

    Args:
        model: a Keras model made by :func:`vitsd.build_vit` from ``config``.
        config: its architecture.
        check_shapes: build such a model anew to compare with. Not needed for what
            :func:`vitsd.load_model` returned: it has built the model from this very architecture.

    Returns:
        ``{"block_0_attention/query/kernel": array, ...}``.

    Raises:
        VitsdError: the model was not made from ``config``, or it has weights that are not finite.
    """
    weights = {weight.path: np.asarray(weight, np.float32) for weight in model.weights}
    if check_shapes:
        _check_shapes(weights, config)
    if broken := [name for name, value in weights.items() if not np.isfinite(value).all()]:
        raise VitsdError(
            f"The model has weights that are NaN or infinite ({broken[0]} ...); train it again."
        )
    return weights


def _check_shapes(weights: Mapping[str, Float32Array], config: VitConfig) -> None:
    from vitsd.model.vit import build_vit

    expected = {weight.path: tuple(weight.shape) for weight in build_vit(config).weights}
    shapes = {name: value.shape for name, value in weights.items()}
    names = expected.keys() | shapes.keys()
    if differing := sorted(name for name in names if expected.get(name) != shapes.get(name)):
        listed = f"{', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}"
        raise VitsdError(
            "The model's weights don't fit the architecture in its spec; only models made by "
            f"vitsd.build_vit can be exported. Differing: {listed}."
        )
