"""The content of a ``.tflite`` file, as TensorFlow Lite's schema.fbs lays it out.

Numbers of fields, types and operations are those of the schema, where they never change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vitsd_runtime.structure import limits
from vitsd_runtime.structure.flatbuffer import FlatBuffer, damaged
from vitsd_runtime.structure.graph import (
    ANY,
    FlawError,
    Graph,
    Operation,
    Quantization,
    Shape,
    Tensor,
    require,
    whole_numbers,
)
from vitsd_runtime.system.text import printable

# Fields of the schema's tables, for `FlatBuffer`.
_MODEL = "Irrrrrrr"
_GRAPH = "rrrrri"
_TENSOR = "rbIrr?rr?r"
_QUANTIZATION = "rrrrBri"
_CODE = "brii"
_OPERATION = "IrrBrrbrrQQBri"
_BUFFER = "rQQ"
_METADATA = "rI"
_SIGNATURE = "rrrrI"
_SIGNATURE_END = "rI"

_TYPES = {
    0: ("float32", 32),
    1: ("float16", 16),
    2: ("int32", 32),
    3: ("uint8", 8),
    4: ("int64", 64),
    6: ("bool", 8),
    9: ("int8", 8),
    17: ("int4", 4),
}
"""Name and bits of the numbers in a tensor, by the type's number."""
_ZERO_POINTS = {"int8": (-128, 127), "uint8": (0, 255)}
_KNOWN_METADATA = (
    "min_runtime_version",
    "CONVERSION_METADATA",
    "reduced_precision_support",
    "TFLITE_METADATA",
)
_OTHERS = "which vitsd-export does not write"
"""Some are instructions to the engine."""


class _Kind(NamedTuple):
    """A kind of operation, and the table of its options."""

    name: str
    table: int
    """The table's number in the union ``BuiltinOptions``."""
    schema: str = ""
    """Of the table, which may be left out if this is empty."""
    fields: Sequence[str] = ()
    """Names of its fields."""
    version: int = 1


_KINDS: Mapping[int, _Kind] = {
    0: _Kind("ADD", 11, "b?", ["activation"]),
    2: _Kind("CONCATENATION", 10, "ib", ["axis", "activation"]),
    3: _Kind(
        "CONV_2D",
        1,
        "biibiib",
        ["padding", "columns", "rows", "activation", "apart_x", "apart_y", "bias_type"],
    ),
    4: _Kind(
        "DEPTHWISE_CONV_2D",
        2,
        "biiibii",
        ["padding", "columns", "rows", "multiplier", "activation", "apart_x", "apart_y"],
    ),
    6: _Kind("DEQUANTIZE", 38),
    9: _Kind("FULLY_CONNECTED", 8, "bb??b", ["activation", "layout", "keep", "", "bias_type"]),
    18: _Kind("MUL", 21, "b", ["activation"]),
    22: _Kind("RESHAPE", 17),
    25: _Kind("SOFTMAX", 9, "f", ["beta"]),
    36: _Kind("GATHER", 23, "ii", ["axis", "batch_dims"]),
    26: _Kind("SPACE_TO_DEPTH", 19, "i", ["block"]),
    34: _Kind("PAD", 22),
    39: _Kind("TRANSPOSE", 26),
    40: _Kind("MEAN", 27, "?", ["keep"]),
    41: _Kind("SUB", 28, "b?", ["activation"]),
    42: _Kind("DIV", 29, "b", ["activation"]),
    45: _Kind(
        "STRIDED_SLICE", 32, "iiiii?", ["begin", "end", "ellipsis", "new", "gone", "relative"]
    ),
    47: _Kind("EXP", 33),
    49: _Kind("SPLIT", 35, "i", ["parts"]),
    53: _Kind("CAST", 37),
    74: _Kind("SUM", 27, "?", ["keep"]),
    76: _Kind("RSQRT", 0),
    114: _Kind("QUANTIZE", 89),
    126: _Kind("BATCH_MATMUL", 101, "???", ["left", "right"]),
    150: _Kind("GELU", 116, "?", ["approximate"]),
}
"""What vitsd-export writes, by the number in ``BuiltinOperator``."""


def read_tflite(data: Any, any_operation: bool) -> Graph:
    """The model in a file, all of whose parts lie within it and refer to parts that are there.

    Args:
        data: bytes, or what can be read like them.
        any_operation: let operations pass that vitsd-export does not write; their options are not
            looked at.

    Raises:
        FlawError: some do not.
        struct.error: an offset leads out of the file.
    """
    require(len(data) >= 8 and bytes(data[4:8]) == b"TFL3", "it is not a TFLite model")
    file = FlatBuffer(data)
    _, codes, graphs, description, buffers, outdated, metadata, signatures = file.root(_MODEL)
    file.text(description)
    file.span(outdated, 4)
    spans = [_buffer(file, *fields) for fields in file.tables(buffers, _BUFFER, limits.MAX_TENSORS)]
    _check_metadata(file, metadata, len(spans))
    (graph, *others) = file.tables(graphs, _GRAPH, 16) or [[]]
    require(graph and not others, "it does not have exactly one graph")
    tensors, inputs, outputs, operations, name, _ = graph
    file.text(name)
    parts = [
        _tensor(file, fields, spans, data)
        for fields in file.tables(tensors, _TENSOR, limits.MAX_TENSORS)
    ]
    kinds = [
        _kind(file, any_operation, *fields)
        for fields in file.tables(codes, _CODE, limits.MAX_OPERATIONS)
    ]
    steps = [
        _operation(file, fields, kinds, len(parts))
        for fields in file.tables(operations, _OPERATION, limits.MAX_OPERATIONS)
    ]
    image, logits = (
        _only(_keys(file, vector, len(parts)), name)
        for vector, name in ((inputs, "inputs"), (outputs, "outputs"))
    )
    _check_signatures(file, signatures, image, logits)
    signature = parts[image][1]
    _check_ends(parts[image][0], signature, parts[logits][0])
    return Graph(
        {i: tensor for i, (tensor, _) in enumerate(parts) if tensor.constant},
        {i: tensor for i, (tensor, _) in enumerate(parts) if not tensor.constant},
        steps,
        image,
        logits,
        dynamic_batch=signature[:1] == (-1,),
    )


def _buffer(file: FlatBuffer, content: int, offset: int, size: int) -> tuple[int, int]:
    """Where its bytes are, and how many."""
    require(not offset and not size, "it has weights outside of its FlatBuffer")
    start, count = file.span(content, 1)
    if start % 4 and count:
        raise damaged()
    return start, count


def _check_metadata(file: FlatBuffer, metadata: int, buffers: int) -> None:
    for name, buffer in file.tables(metadata, _METADATA, 64):
        shown = file.text(name)
        require(shown in _KNOWN_METADATA, "it has metadata {}, {}", printable(shown, 80), _OTHERS)
        require(buffer < buffers, "its metadata have no buffer")


def _check_signatures(file: FlatBuffer, signatures: int, image: int, logits: int) -> None:
    for inputs, outputs, key, outdated, graph in file.tables(signatures, _SIGNATURE, 16):
        file.text(key)
        require(not outdated and graph == 0, "its signature has no graph")
        for vector, end in ((inputs, image), (outputs, logits)):
            entries = file.tables(vector, _SIGNATURE_END, 16)
            for name, _ in entries:
                file.text(name)
            require(
                [number for _, number in entries] == [end],
                "its signature has other inputs or outputs than its graph",
            )


def _tensor(
    file: FlatBuffer, fields: list[Any], buffers: Sequence[tuple[int, int]], data: Any
) -> tuple[Tensor, Shape]:
    """A tensor, and its shape with -1 where any size will do, if that is in the file."""
    dims, number, buffer, name, quantization, variable, sparsity, signature, _, variants = fields
    dtype, bits = _TYPES.get(number, ("", 0))
    shape = file.numbers(dims, "i", limits.MAX_RANK)
    if not dtype or (shape and min(shape) < 1):
        raise FlawError(f"it has a tensor of type {number} and shape {shape}")
    file.text(name)
    if variable or sparsity or variants:
        raise FlawError("it has a sparse or variable tensor")
    if buffer >= len(buffers):
        raise FlawError(f"it has a tensor in buffer {buffer} of {len(buffers)}")
    start, count = buffers[buffer]
    values = None
    if count:
        size = math.prod(shape)
        expected = (size * bits + 7) // 8
        require(count == expected, "it has {:,} bytes for {} {}", count, dtype, shape)
    scales = _quantization(file, quantization, dtype, shape)
    if count and dtype == "int32" and not scales and size <= limits.MAX_VALUES:
        values = whole_numbers(bytes(data[start : start + count]), dtype)
    if scales is None and dtype in ("int8", "int4"):
        raise FlawError(f"it has {dtype} numbers without a scale")
    return Tensor(dtype, shape, scales, count > 0, values), file.numbers(signature, "i", 8)


def _quantization(file: FlatBuffer, position: int, dtype: str, shape: Shape) -> Quantization | None:
    if not position:
        return None
    fields = file.table(position, _QUANTIZATION)
    if not any(fields):
        return None
    low, high, scale, offset, kind, details, axis = fields
    file.span(low, 4)
    file.span(high, 4)
    require(not kind and not details, "it has a quantization of its own")
    count, least, most = file.extent(scale, "f", limits.MAX_SCALES)
    if not count:
        return None
    # Engines put scales into logarithms and shifts, and end the process where those fail.
    require(2.0**-60 < least <= most < 2.0**60, "it has a scale of {:g} or {:g}", least, most)
    offsets, first, last = file.extent(offset, "q", limits.MAX_SCALES)
    along = shape[axis] if 0 <= axis < len(shape) else 1
    fits = offsets == count in (1, along) and 0 <= axis < max(len(shape), 1)
    require(fits, "it has {} scales for {} along {}", count, shape, axis)
    lowest, highest = _ZERO_POINTS.get(dtype, (0, 0))
    require(lowest <= first <= last <= highest, "it has an odd zero point")
    return Quantization(count, least, most, first != 0 or last != 0, axis)


def _check_ends(image: Tensor, signature: Shape, logits: Tensor) -> None:
    dtypes, shape = ("float32", "int8", "uint8"), image.shape
    require(
        len(shape) == 4
        and shape[0] == 1
        and signature in ((), shape, (-1, *shape[1:]))
        and image.dtype in dtypes
        and not image.constant,
        "its input is {} {}; images are (batch, height, width, channels)",
        image.dtype,
        signature or shape,
    )
    require(
        len(logits.shape) == 2 and logits.shape[0] == 1 and logits.dtype in dtypes,
        "its output is {} {}; logits are (batch, classes)",
        logits.dtype,
        logits.shape,
    )


def _only(keys: tuple[int, ...], name: str) -> int:
    require(len(keys) == 1, "it has {} {}; an image classifier has one", len(keys), name)
    return keys[0]


def _keys(file: FlatBuffer, vector: int, tensors: int, lowest: int = 0) -> tuple[int, ...]:
    """Numbers of tensors."""
    keys = file.numbers(vector, "i", limits.MAX_ENDS)
    fits = not keys or lowest <= min(keys) <= max(keys) < tensors
    require(fits, "it refers to a tensor that is none of its {}", tensors)
    return keys


def _kind(
    file: FlatBuffer, any_operation: bool, old: int, custom: int, version: int, number: int
) -> _Kind:
    file.text(custom)
    number = max(old, number)
    if number in _KINDS and not custom:
        return _KINDS[number]._replace(version=max(version, 1))
    require(
        any_operation,
        "it has operation {}, {} (`allow_any_operation`)",
        number,
        _OTHERS,
    )
    return _Kind(ANY, 0)


def _operation(
    file: FlatBuffer, fields: list[Any], kinds: Sequence[_Kind], tensors: int
) -> Operation:
    number, inputs, outputs, table, options, *others, _ = fields
    require(number < len(kinds), "it has an operation of no kind")
    kind = kinds[number]
    reads = _keys(file, inputs, tensors, lowest=-1)
    writes = _keys(file, outputs, tensors)
    if kind.name == ANY:
        custom, _, mutated, intermediates, *_ = others
        for vector, item_bytes in ((custom, 1), (mutated, 1), (intermediates, 4)):
            file.span(vector, item_bytes)
        return Operation(ANY, (), writes, {})
    require(reads and writes, "{} has no inputs or no outputs", kind.name)
    require(not any(others), "{} has options of its own", kind.name)
    given = tuple(None if key < 0 else key for key in reads) if -1 in reads else reads
    return Operation(kind.name, given, writes, _options(file, table, options, kind), kind.version)


def _options(file: FlatBuffer, table: int, position: int, kind: _Kind) -> Mapping[str, Any]:
    if not kind.schema and not table and not position:
        return {}
    require(table == kind.table and position, "{} has options of another operation", kind.name)
    if kind.name == "RESHAPE":
        (target,) = file.table(position, "r")
        file.numbers(target, "i", limits.MAX_RANK)
        return {}
    fields = file.table(position, kind.schema or "bb")  # the types of CAST
    return dict(zip(kind.fields, fields))
