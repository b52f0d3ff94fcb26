"""A model as a list of operations on tensors, and the walk that proves that it can be run.

The walk follows the shape and type of every tensor from the image to the logits, as the engine
will. What it meets is therefore all that an engine will be asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Union

import numpy as np

from vitsd_runtime.structure import limits

Shape = tuple[int, ...]
Key = Union[int, str]
"""Of a tensor: its number in a ``.tflite``, its name in an ``.onnx``."""


ANY = "ANY"
"""Kind of the operations that vitsd-export does not write, where they are allowed."""


class FlawError(Exception):
    """What is wrong with a model, in words that follow "the file is refused: "."""


class Quantization(NamedTuple):
    """How a tensor's integers stand for real numbers."""

    scales: int
    """How many: one, or one for each index along ``axis``."""
    least: float
    most: float
    """The smallest and the largest scale."""
    shifted: bool
    """Whether a zero point is not 0."""
    axis: int


class Tensor(NamedTuple):
    """What is known of a tensor before the model runs."""

    dtype: str
    shape: Shape
    quantization: Quantization | None = None
    constant: bool = False
    values: tuple[int, ...] | None = None
    """Of a small constant of whole numbers, such as axes; flat."""

    @property
    def elements(self) -> int:
        """Product of the dimensions."""
        return math.prod(self.shape)


ITEM_BYTES = {
    "float32": 4,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "int4": 1,
}
"""Of a number in memory; engines unpack those of 4 bits."""


class Operation(NamedTuple):
    """One step of a model."""

    kind: str
    inputs: tuple[Key | None, ...]
    """None where an optional one is left out."""
    outputs: tuple[Key, ...]
    options: Mapping[str, Any]
    version: int = 1
    """Of its kind, in a ``.tflite``."""


class Graph(NamedTuple):
    """A model with one input and one output."""

    constants: dict[Key, Tensor]
    declared: dict[Key, Tensor]
    """What the file says about the tensors that are computed; need not be all."""
    operations: Sequence[Operation]
    input: Key
    output: Key
    dynamic_batch: bool
    opset: int = 0
    """Of ONNX."""


Rule = Callable[[Operation, Sequence[Any], Sequence[Any]], Sequence[Tensor]]
"""The outputs of an operation with these inputs, or a :class:`FlawError`."""


Depth = Callable[[Sequence[Any]], int]
"""How many products an operation with these inputs adds up for each number that it makes."""


def check_graph(graph: Graph, rules: Mapping[str, Rule], products: Mapping[str, Depth]) -> None:
    """Prove that a model can be run, with any number of images that it takes at once.

    Args:
        graph: the model.
        rules: for each kind of operation.
        products: for each kind of operation that multiplies matrices.

    Raises:
        FlawError: it can't.
    """
    _Walk(graph, rules, products).run()


_ANY_BATCH = 2**61 - 1
"""Stands for the number of images where that is free: a prime, and larger than what a dimension can
be, so that shapes that fit for it fit for every number."""


class _Walk:
    def __init__(
        self, graph: Graph, rules: Mapping[str, Rule], products: Mapping[str, Depth]
    ) -> None:
        self._graph, self._rules, self._products = graph, rules, products
        image = graph.declared[graph.input]
        self._known: dict[Key, Tensor] = {**graph.constants}
        self._elements = {key: tensor.elements for key, tensor in graph.constants.items()}
        """Of one image's share of each tensor."""
        self._bytes: dict[Key | None, int] = {}
        """Of one image's share of each result."""
        last_use = {key: i for i, step in enumerate(graph.operations) for key in step.inputs}
        last_use[graph.output] = -1
        self._done_with: dict[int, list[Key | None]] = {}
        """What is not needed after each operation."""
        for key, i in last_use.items():
            self._done_with.setdefault(i, []).append(key)
        self._live = self._work = 0
        batch = _ANY_BATCH if graph.dynamic_batch else 1
        self._add(graph.input, image._replace(shape=(batch, *image.shape[1:])), image)

    def run(self) -> None:
        for i, step in enumerate(self._graph.operations):
            try:
                self._step(step)
            except FlawError as flaw:
                shown = str(flaw).replace(str(_ANY_BATCH), "any")
                raise FlawError(f"operation {i} ({step.kind}) {shown}") from None
            for key in self._done_with.get(i, ()):
                self._live -= self._bytes.get(key, 0)
        key = self._graph.output
        require(key in self._known and key not in self._graph.constants, "nothing makes its output")

    def _step(self, step: Operation) -> None:
        known, declared = self._known, self._graph.declared
        try:
            inputs = [None if key is None else known[key] for key in step.inputs]
        except KeyError:
            raise FlawError("reads what no operation before it has made") from None
        stated = [declared.get(key) for key in step.outputs]
        outputs = self._rules[step.kind](step, inputs, stated)
        if len(outputs) != len(stated):
            raise FlawError(f"has {len(stated)} outputs")
        for key, output, expected in zip(step.outputs, outputs, stated):
            if key in known:
                raise FlawError("writes a tensor that has its values already")
            self._add(key, output, expected)
        self._count(step, inputs)

    def _add(self, key: Key, tensor: Tensor, stated: Tensor | None) -> None:
        """Note a tensor; what the file states about it, for one image, must be the same."""
        shape = tensor.shape
        if shape and shape[0] % _ANY_BATCH == 0:
            shape = (shape[0] // _ANY_BATCH, *shape[1:])
        if shape and max(shape) > limits.MAX_DIMENSION:
            raise FlawError("mixes the images of a batch")
        if stated is not None:
            if stated.dtype != tensor.dtype or stated.shape != shape:
                raise FlawError(
                    f"makes {tensor.dtype} {shape}, but the file says {stated.dtype} {stated.shape}"
                )
            tensor = stated if shape is tensor.shape else stated._replace(shape=tensor.shape)
        self._known[key] = tensor
        self._elements[key] = elements = math.prod(shape)
        self._bytes[key] = nbytes = elements * ITEM_BYTES[tensor.dtype]
        self._live += nbytes

    def _count(self, step: Operation, inputs: Sequence[Tensor | None]) -> None:
        elements = self._elements
        made = sum([elements[key] for key in step.outputs])
        if step.kind in self._products:
            made *= self._products[step.kind](inputs)
        self._work += made + sum([elements[key] for key in step.inputs if key is not None])
        if self._live > limits.MAX_LIVE_BYTES:
            raise FlawError(
                f"needs {self._live:,} bytes of intermediate results for an image; the limit is "
                f"{limits.MAX_LIVE_BYTES:,}"
            )
        if self._work > limits.MAX_WORK:
            raise FlawError(
                f"brings the work for an image above the limit of {limits.MAX_WORK:,} steps"
            )


def require(condition: object, flaw: str, *values: object) -> None:
    """Raise a :class:`FlawError` unless the condition holds.

    Args:
        condition: what must be true.
        flaw: a format of ``str.format``: filled in only where it is needed.
        values: for the format.
    """
    if not condition:
        raise FlawError(flaw.format(*values))


def whole_numbers(content: bytes, dtype: str) -> tuple[int, ...]:
    """The values of a constant of whole numbers, little-endian."""
    return tuple(np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).tolist())
