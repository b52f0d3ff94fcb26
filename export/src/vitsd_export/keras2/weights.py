"""Give a Keras 2 model's variables the names that they have in ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitsd.config import VitConfig
from vitsd_export.keras2.checkpoint import Layer
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import AnyArray

_TOKENIZATION = {
    "projection/kernel": "tokenization/projection/kernel",
    "projection/bias": "tokenization/projection/bias",
}
_TOKENIZATION_NORM = {
    "layer_norm/gamma": "tokenization/norm/gamma",
    "layer_norm/beta": "tokenization/norm/beta",
}
_ATTENTION = {
    "_query_dense/kernel": "query/kernel",
    "_query_dense/bias": "query/bias",
    "_key_dense/kernel": "key/kernel",
    "_key_dense/bias": "key/bias",
    "_value_dense/kernel": "value/kernel",
    "_value_dense/bias": "value/bias",
    "_output_dense/kernel": "projection/kernel",
    "_output_dense/bias": "projection/bias",
    "tau": "tau",
}


def name_weights(body: Sequence[Layer], config: VitConfig) -> dict[str, AnyArray]:
    """The weights under the paths that :func:`vitsd.build_vit` gives them.

    Args:
        body: layers as :func:`vitsd_export.keras2.architecture.infer_config` takes them.
        config: the architecture. With ``lsa``, an attention that stores no temperature has the
            constant ``sqrt(key_dim)``.

    Raises:
        VitsdError: a variable has no place in the architecture, or one is missing.
    """
    weights: dict[str, AnyArray] = {}
    for layer, names in zip(body, _layer_names(config), strict=True):
        if layer.kind == "attention" and not layer.has("tau"):
            tau = names.pop("tau")
            if config.lsa:
                weights[tau] = np.asarray(config.key_dim**0.5, np.float32)
        paths = {layer.find(ending): name for ending, name in names.items()}
        if unused := sorted(set(layer.tensors) - set(paths)):
            raise VitsdError(
                "A variable of the SavedModel has no place in the architecture: "
                f"{printable(unused[0])}."
            )
        weights.update({name: layer.tensors[path] for path, name in paths.items()})
    return weights


def assign_weights(model: Any, weights: dict[str, AnyArray]) -> None:
    """Set every weight of a model made by :func:`vitsd.build_vit`, except its statistics.

    Raises:
        VitsdError: names or shapes are not the model's.
    """
    variables = {
        variable.path: variable
        for variable in model.weights
        if not variable.path.startswith("normalization/")
    }
    if differing := sorted(variables.keys() ^ weights.keys()):
        raise VitsdError(
            "The SavedModel's variables don't fit the architecture inferred from them: "
            f"{printable(differing[0])}."
        )
    for name, value in weights.items():
        shape = tuple(variables[name].shape)
        if shape != value.shape:
            raise VitsdError(
                f"{printable(name)} has the shape {value.shape} in the SavedModel, not {shape}."
            )
        variables[name].assign(value)


def _layer_names(config: VitConfig) -> list[dict[str, str]]:
    """For each layer in order: our weights' paths by how the paths inside the layer end."""
    layers = [
        {**_TOKENIZATION, **(_TOKENIZATION_NORM if config.spt else {})},
        {"embeddings": "position_embedding/embedding"},
    ]
    for i in range(config.num_layers):
        block = f"block_{i}"
        layers += [
            _norm(f"{block}_norm_1"),
            {ending: f"{block}_attention/{name}" for ending, name in _ATTENTION.items()},
            _norm(f"{block}_norm_2"),
            *(_dense(f"{block}_mlp_{j}") for j in range(len(config.mlp_units))),
        ]
    heads = (_dense(f"head_{i}") for i in range(len(config.head_units)))
    return [*layers, _norm("norm"), *heads, _dense("logits")]


def _norm(name: str) -> dict[str, str]:
    return {"gamma": f"{name}/gamma", "beta": f"{name}/beta"}


def _dense(name: str) -> dict[str, str]:
    return {"kernel": f"{name}/kernel", "bias": f"{name}/bias"}
