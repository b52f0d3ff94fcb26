"""The content of an ``.onnx`` file, as onnx.proto lays it out.

Numbers of fields and types are those of onnx.proto, where they never change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vitsd_runtime.structure import limits
from vitsd_runtime.structure.graph import (
    ANY,
    ITEM_BYTES,
    FlawError,
    Graph,
    Key,
    Operation,
    Tensor,
    require,
    whole_numbers,
)
from vitsd_runtime.structure.protobuf import Span, read_fields, read_integers, signed
from vitsd_runtime.system.text import printable

# Fields of the messages, for `read_fields`. Left out, and so refused: functions, training, sparse
# weights, and options that hold tensors or graphs.
_MODEL = "nbbbnbmb-----b"
_OPSET = "bn"
_GRAPH = "bb--b----bbbb--b"
_NODE = "bbbbbbb-b"
_ATTRIBUTE = "bfnb--ll----b------n"
_TENSOR = "ln-ll-lbb--bbn"
_VALUE = "bmbb"
_TYPE = "m----b"
_TENSOR_TYPE = "nm"
_SHAPE = "b"
_DIMENSION = "nbb"

_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64"}
_WHOLE = ("int32", "int64")
"""Types of the constants whose numbers count."""
_DOMAINS = ("", "ai.onnx")
_OLDEST_OPSET = 13
"""Softmax and ReduceSum were something else before."""


class _Value(NamedTuple):
    """An input or output of the graph."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    """0 where any size will do."""


def read_onnx(data: Any, known: Sequence[str], any_operation: bool) -> Graph:
    """The model in a file.

    Args:
        data: bytes, or what can be read like them.
        known: the operations that vitsd-export writes.
        any_operation: let others pass.

    Raises:
        FlawError: parts reach beyond its end, or it has parts that vitsd-export does not write.
    """
    graph, opset = None, 0
    for number, value in read_fields(data, Span(0, len(data)), _MODEL, "model"):
        if number == 7:
            graph = value
        elif number == 8:
            opset = max(opset, _opset(data, value))
    if graph is None:
        raise FlawError("it is no ONNX model, or cut off: it has no graph")
    require(opset >= _OLDEST_OPSET or any_operation, "it has operator set {}, an old one", opset)
    return _graph(data, graph, known, any_operation)._replace(opset=opset)


def _opset(data: Any, span: Span) -> int:
    """Version of the standard operators; 0 of others."""
    fields = dict(read_fields(data, span, _OPSET, "operator set"))
    return int(fields.get(2, 0)) if _text(data, fields.get(1)) in _DOMAINS else 0


def _graph(data: Any, span: Span, known: Sequence[str], any_operation: bool) -> Graph:
    parts: dict[int, list[Span]] = {number: [] for number in (1, 5, 11, 12)}
    for number, value in read_fields(data, span, _GRAPH, "graph"):
        if number in parts:
            parts[number].append(value)
    nodes, initializers, inputs, outputs = parts.values()
    require(len(nodes) <= limits.MAX_OPERATIONS, "it has {:,} operations", len(nodes))
    require(len(initializers) <= limits.MAX_TENSORS, "it has {:,} tensors", len(initializers))
    constants: dict[Key, Tensor] = {}
    for part in initializers:
        name, tensor = _tensor(data, part)
        require(name not in constants, "it has two tensors of one name")
        constants[name] = tensor
    images = [value for value in _values(data, inputs) if value.name not in constants]
    image, logits = _only(images, "inputs"), _only(_values(data, outputs), "outputs")
    _check_ends(image, logits)
    return Graph(
        constants,
        {value.name: Tensor(value.dtype, (1, *value.dims[1:])) for value in (image, logits)},
        [_node(data, node, known, any_operation) for node in nodes],
        image.name,
        logits.name,
        dynamic_batch=image.dims[0] == 0,
    )


def _values(data: Any, spans: Sequence[Span]) -> list[_Value]:
    require(len(spans) <= limits.MAX_TENSORS, "it has {:,} inputs or outputs", len(spans))
    return [_value(data, span) for span in spans]


def _value(data: Any, span: Span) -> _Value:
    fields = dict(read_fields(data, span, _VALUE, "input or output"))
    kind = dict(read_fields(data, fields.get(2, _EMPTY), _TYPE, "input or output"))
    tensor = dict(read_fields(data, kind.get(1, _EMPTY), _TENSOR_TYPE, "type"))
    dims = [
        dict(read_fields(data, dim, _DIMENSION, "dimension"))
        for _, dim in read_fields(data, tensor.get(2, _EMPTY), _SHAPE, "shape")
    ]
    for dim in dims:
        _text(data, dim.get(2))  # an engine shows it
    sizes = [0 if 2 in dim else signed(dim.get(1, 0)) for dim in dims]
    number = tensor.get(1, 0)
    return _Value(_text(data, fields.get(1)), _DTYPES.get(number, f"type {number}"), tuple(sizes))


def _only(values: Sequence[_Value], name: str) -> _Value:
    require(len(values) == 1, "it has {} {}; an image classifier has one", len(values), name)
    return values[0]


def _check_ends(image: _Value, logits: _Value) -> None:
    for value, name, rank, dtypes, words in (
        (image, "input", 4, ("float32", "uint8"), "images are (batch, height, width, channels)"),
        (logits, "output", 2, ("float32",), "logits are (batch, classes)"),
    ):
        dims = value.dims
        fits = len(dims) == rank and dims[0] in (0, 1) and min(dims[1:]) > 0
        shown = tuple(n or "any" for n in dims)
        require(
            fits and value.dtype in dtypes and max(dims) <= limits.MAX_DIMENSION,
            "its {} is {} {}; {}",
            name,
            value.dtype,
            shown,
            words,
        )


def _node(data: Any, span: Span, known: Sequence[str], any_operation: bool) -> Operation:
    parts: dict[int, list[Span]] = {number: [] for number in (1, 2, 4, 5, 7)}
    for number, value in read_fields(data, span, _NODE, "operation"):
        if number in parts:
            parts[number].append(value)
    inputs, outputs, kinds, attributes, domains = parts.values()
    kind, domain = (_text(data, part[-1] if part else None) for part in (kinds, domains))
    writes = tuple(_text(data, name) for name in outputs)
    if domain not in _DOMAINS or kind not in known:
        require(
            any_operation,
            "it has operation {}, which vitsd-export does not write (`allow_any_operation`)",
            printable(".".join(filter(None, (domain, kind))), 80),
        )
        return Operation(ANY, (), writes, {})
    require(inputs and outputs, "{} has no inputs or no outputs", kind)
    reads = tuple(_text(data, name) or None for name in inputs)
    options = [] if any_operation else [_attribute(data, part) for part in attributes]
    require(len(dict(options)) == len(options), "{} has an option twice", kind)
    return Operation(kind, reads, writes, dict(options))


def _attribute(data: Any, span: Span) -> tuple[str, Any]:
    fields: dict[int, Any] = {}
    for number, value in read_fields(data, span, _ATTRIBUTE, "option"):
        if number == 8:
            value = _extended(fields.get(8, []), data, value)
        fields[number] = value
    name, kind = _text(data, fields.get(1)), fields.get(20, 0)
    if kind == 2:
        return name, signed(fields.get(3, 0))
    if kind == 7:
        return name, tuple(fields.get(8, ()))
    require(kind == 1, "it has an option of type {}", kind)
    start, end = fields.get(2, _EMPTY)
    return name, float(np.frombuffer(data[start:end].ljust(4, b"\0"), "<f4")[0])


def _tensor(data: Any, span: Span) -> tuple[str, Tensor]:
    dims: list[int] = []
    fields: dict[int, Any] = {}
    count = 0
    values: list[int] = []
    for number, value in read_fields(data, span, _TENSOR, "tensor"):
        if number == 1:
            dims = _extended(dims, data, value)
        elif number in _TYPED:
            count += _count(data, number, value)
            if number != 4 and count <= limits.MAX_VALUES:
                values += read_integers(data, value, limits.MAX_VALUES)
        fields[number] = value
    dtype = _DTYPES.get(fields.get(2, 0), "")
    shape = tuple(dims)
    require(13 not in fields and not fields.get(14), "it has weights in another file")
    require(dtype, "it has a tensor of type {}", fields.get(2, 0))
    require(min(shape, default=1) > 0, _ODD, shape)
    size = math.prod(shape)
    typed = [number for number in _TYPED if number in fields]
    raw = fields.get(9)
    if raw is not None:
        content = raw.end - raw.start
        require(content == size * ITEM_BYTES[dtype] and not typed, _ODD, shape)
        if dtype in _WHOLE and size <= limits.MAX_VALUES:
            values = list(whole_numbers(bytes(data[raw.start : raw.end]), dtype))
    else:
        require(typed == [_FIELDS[dtype]] and count == size, _ODD, shape)
    small = tuple(values) if dtype in _WHOLE and size <= limits.MAX_VALUES else None
    return _text(data, fields.get(8)), Tensor(dtype, shape, None, True, small)


_ODD = "it has a tensor of shape {} whose content does not fit"
_FIELDS = {"float32": 4, "int32": 5, "int8": 5, "uint8": 5, "int64": 7}
"""Where numbers are that are not raw bytes."""
_TYPED = (4, 5, 7)


def _extended(numbers: list[int], data: Any, value: Any) -> list[int]:
    """A list of axes or dimensions, with the next part of it."""
    numbers = numbers + read_integers(data, value, limits.MAX_RANK)
    require(len(numbers) <= limits.MAX_RANK, "it has a list of more than {}", limits.MAX_RANK)
    return numbers


def _count(data: Any, number: int, value: Any) -> int:
    """How many numbers are in a packed list, or in a part of one that is not."""
    if isinstance(value, int):
        return 1
    content = np.frombuffer(data, np.uint8, value.end - value.start, value.start)
    return len(content) // 4 if number == 4 else int(np.count_nonzero(content < 0x80))


def _text(data: Any, span: Span | None) -> str:
    if span is None:
        return ""
    try:
        return str(data[span.start : span.end], "utf-8")
    except UnicodeDecodeError:
        raise FlawError("it has a name that is no text") from None


_EMPTY = Span(0, 0)
