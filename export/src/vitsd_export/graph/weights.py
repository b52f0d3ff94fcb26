"""Read a Keras model's weights under stable names, checked against its architecture."""

from __future__ import annotations

import numpy as np

from vitsd.config import VitConfig
from vitsd_runtime.errors import VitsdError


def read_weights(model, config: VitConfig) -> dict[str, np.ndarray]:
    """``{"block_0_attention/query/kernel": array, ...}``: paths without the model's own name, float arrays.

    Raises:
        VitsdError: if the model is not one that :func:`vitsd.build_vit` makes from ``config``.
    """
    from vitsd.model.vit import build_vit

    expected = {weight.path: tuple(weight.shape) for weight in build_vit(config).weights}
    found = {weight.path: np.asarray(weight, np.float32) for weight in model.weights}
    shapes = {name: value.shape for name, value in found.items()}
    if shapes != expected:
        differing = sorted(
            name
            for name in expected.keys() | shapes.keys()
            if expected.get(name) != shapes.get(name)
        )
        raise VitsdError(
            "The model's weights don't fit the architecture in its spec; only models made by vitsd.build_vit can be "
            f"exported. Differing: {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}."
        )
    if broken := [name for name, value in found.items() if not np.isfinite(value).all()]:
        raise VitsdError(
            f"The model has weights that are NaN or infinite ({broken[0]} ...); train it again."
        )
    return found
