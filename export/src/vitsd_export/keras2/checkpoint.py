"""Read the variables of a Keras 2 SavedModel, layer by layer.

Layers and variables are found by the structure of the saved object graph, not by their names, which
Keras numbers automatically.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.spec.limits import MAX_WEIGHTS
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import AnyArray

_MAX_VALUES = 4 * MAX_WEIGHTS
"""Of a checkpoint, which may hold an optimizer's state too: one that claims more is not read."""
_MAX_DEPTH = 8
"""Of objects inside each other; the file is untrusted and may hold a cycle."""
_TRAINING_STATE = ("optimizer", "keras_api", "loss", "metrics")
"""Children of the saved model that hold no weights."""
_BOOKKEEPING = (
    *_TRAINING_STATE,
    "variables",
    "trainable_variables",
    "non_trainable_variables",
    "regularization_losses",
)
"""Children of any object that repeat its variables, or hold no weights."""
_RANDOM_STATE = "_state_var"
"""How variables of random number generators end; they are no weights."""
_LAYER = re.compile(r"layer_with_weights-(\d{1,9})")
_ATTENTION = {f"_{part}_dense/kernel" for part in ("query", "key", "value", "output")}


@dataclass(frozen=True)
class Layer:
    """A layer that has variables."""

    tensors: dict[str, AnyArray]
    """By their path inside the layer, e.g. ``_query_dense/kernel``."""
    kind: str
    """``statistics``, ``tokenization``, ``embedding``, ``norm``, ``attention`` or ``dense``; else
    a description that starts with ``unknown``."""

    def find(self, ending: str) -> str:
        """The path that ends so.

        Raises:
            VitsdError: none or several do.
        """
        paths = [path for path in self.tensors if path.endswith(ending)]
        if len(paths) != 1:
            raise VitsdError(f"A layer of the SavedModel has {len(paths)} variables {ending!r}.")
        return paths[0]

    def has(self, ending: str) -> bool:
        """Whether a variable's path ends so."""
        return any(path.endswith(ending) for path in self.tensors)

    def get(self, ending: str) -> AnyArray:
        """The variable whose path ends so.

        Raises:
            VitsdError: as for :meth:`find`.
        """
        return self.tensors[self.find(ending)]


@dataclass(frozen=True)
class Checkpoint:
    """All variables of a SavedModel; each belongs to one layer or to the state of training."""

    layers: tuple[Layer, ...]
    """In the model's order."""
    training_state: int
    """Variables of the optimizer and the like, which are left out."""

    @property
    def statistics(self) -> Layer | None:
        """The layer that normalizes the images, if the model has one."""
        return next((layer for layer in self.layers if layer.kind == "statistics"), None)

    @property
    def body(self) -> list[Layer]:
        """The layers without :attr:`statistics`."""
        return [layer for layer in self.layers if layer.kind != "statistics"]

    @property
    def variables(self) -> int:
        """Number of variables in layers."""
        return sum(len(layer.tensors) for layer in self.layers)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the variables of the SavedModel in ``folder``; nothing in it is executed.

    Raises:
        VitsdError: damaged, too large, or a variable belongs to no layer or to two.
    """
    reader, graph = _open(folder)
    layers = []
    used: set[int] = set()
    for layer_id in graph.layers():
        variables = graph.variables(layer_id)
        if shared := used & set(variables.values()):
            key = graph.keys[min(shared)]
            raise VitsdError(f"Two layers of the SavedModel share a variable ({printable(key)}).")
        used |= set(variables.values())
        if variables:
            layers.append(_read_layer(reader, graph.keys, variables))
    rest = [key for variable, key in graph.keys.items() if variable not in used]
    if homeless := sorted(key for key in rest if not _is_training_state(key)):
        raise VitsdError(
            f"A variable of the SavedModel belongs to no layer: {printable(homeless[0])}."
        )
    return Checkpoint(tuple(layers), len(rest))


def _read_layer(reader: Any, keys: dict[int, str], variables: dict[str, int]) -> Layer:
    tensors = {
        path: np.asarray(reader.get_tensor(keys[variable])) for path, variable in variables.items()
    }
    return Layer(tensors, _kind(tensors))


def _open(folder: Path) -> tuple[Any, _ObjectGraph]:
    """TensorFlow's reader of the variables, and the graph of the objects that own them."""
    try:
        with quiet_stderr():
            reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
            _check_size(folder, reader.get_variable_to_shape_map().values())
            graph = TrackableObjectGraph()
            graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    except (OSError, ValueError, IndexError, RuntimeError, tf.errors.OpError) as error:
        raise VitsdError(
            f"The variables of {printable(folder)} can't be read: {first_line(error)}"
        ) from error
    if not graph.nodes:
        raise VitsdError(f"{printable(folder)} holds no objects.")
    return reader, _ObjectGraph(graph.nodes)


def _check_size(folder: Path, shapes: Any) -> None:
    if sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes) > _MAX_VALUES:
        raise VitsdError(
            f"{printable(folder)} claims more than {_MAX_VALUES:,} weights; it is not read."
        )


class _ObjectGraph:
    """The objects of a SavedModel by number, the model itself being 0."""

    def __init__(self, nodes: Any) -> None:
        self._nodes = nodes
        self.keys: dict[int, str] = {
            number: node.attributes[0].checkpoint_key
            for number, node in enumerate(nodes)
            if node.attributes
        }
        """Of the objects that are variables: where the checkpoint stores them."""

    def layers(self, parent: int = 0, depth: int = 0) -> Iterator[int]:
        """Layers with weights in order; those of a model inside the model stand in its place."""
        if depth > _MAX_DEPTH:
            raise VitsdError("The SavedModel's layers are nested too deeply.")
        numbered = sorted(
            (int(match[1]), child.node_id)
            for child in self._nodes[parent].children
            if (match := _LAYER.fullmatch(child.local_name))
        )
        for _, layer in numbered:
            inner = list(self.layers(layer, depth + 1))
            yield from inner or [layer]

    def variables(self, layer: int) -> dict[str, int]:
        """The weights of a layer by their path in it; each once, under its first path."""
        paths: dict[str, int] = {}
        for path, variable in self._below(layer, "", 0):
            if not path.endswith(_RANDOM_STATE) and variable not in paths.values():
                paths[path] = variable
        return paths

    def _below(self, number: int, path: str, depth: int) -> Iterator[tuple[str, int]]:
        if number in self.keys:
            yield path, number
        if depth > _MAX_DEPTH:
            return
        for child in self._nodes[number].children:
            if child.local_name not in _BOOKKEEPING:
                inner = f"{path}/{child.local_name}" if path else child.local_name
                yield from self._below(child.node_id, inner, depth + 1)


def _is_training_state(key: str) -> bool:
    return key.split("/")[0] in _TRAINING_STATE or _RANDOM_STATE in key


def _kind(tensors: dict[str, AnyArray]) -> str:
    paths = set(tensors)
    if {"mean", "variance"} <= paths:
        return "statistics"
    if paths >= _ATTENTION:
        return "attention"
    if "projection/kernel" in paths:
        return "tokenization"
    if len(paths) == 1 and next(iter(paths)).endswith("embeddings"):
        return "embedding"
    if paths == {"gamma", "beta"}:
        return "norm"
    if paths == {"kernel", "bias"}:
        return "dense"
    return f"unknown ({', '.join(sorted(paths))[:80]})"
