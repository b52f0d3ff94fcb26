"""Operations that a target has no kernel for, written in others that give the same integers.

For files that are int8 throughout. They are quantized before, so that what was searched for one
target holds for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from vitsd_export.formats.tflite_schema import (
    add_constant,
    add_tensor,
    new_operation,
    operation_name,
    parse_model,
    serialize_model,
)
from vitsd_runtime.types import AnyArray

_CODES = np.arange(-128, 128)
"""All that an int8 can be."""
_PARTS = range(1, 9)
"""Of an activation that is looked up part by part; TFLite Micro joins at most 10 tensors."""
_PART_BYTES = 8_192
"""Of the largest part's indices."""


def rewrite(content: bytes, names: Collection[str]) -> bytes:
    """A file without some kinds of operations.

    Args:
        content: a file that is int8 throughout, for one image at a time.
        names: of the operations, as in ``BuiltinOperator``; each of :data:`REWRITTEN`.
    """
    if not names:
        return content
    model = parse_model(content)
    (graph,) = model.subgraphs
    operators = []
    for operator in graph.operators:
        name = operation_name(model, operator)
        operators += REWRITTEN[name](model, graph, operator) if name in names else [operator]
    graph.operators = operators
    return serialize_model(_without_unused_kinds(model))


def _without_unused_kinds(model: Any) -> Any:
    """Interpreters look for a kernel of every kind that a file names."""
    operators = model.subgraphs[0].operators
    used = sorted({operator.opcodeIndex for operator in operators})
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[i] for i in used]
    return model


def _look_up_gelu(model: Any, graph: Any, operator: Any) -> list[Any]:
    """GELU as a table of its 256 outputs, as TensorFlow Lite's own kernel computes it.

    The index of an entry is an int32, CAST from the int8 and moved by ADD, because GATHER takes no
    other. These are eight bytes for each value at a time, so a large activation is looked up part
    by part.
    """
    source, result = operator.inputs[0], operator.outputs[0]
    name, shape = graph.tensors[source].name.decode(), graph.tensors[source].shape
    before, after = (graph.tensors[i].quantization for i in (source, result))
    table = add_constant(model, graph, f"{name}/table", gelu_table(before, after), after)
    first = add_constant(model, graph, f"{name}/first", np.array([-_CODES[0]], np.int32))

    def look_up(source: int, result: int, shape: Sequence[int]) -> list[Any]:
        code, index = (
            add_tensor(model, graph, f"{name}/{part}", shape, "int32") for part in ("code", "index")
        )
        types = schema.CastOptionsT()
        types.inDataType, types.outDataType = schema.TensorType.INT8, schema.TensorType.INT32
        return [
            new_operation(model, types, [source], [code]),
            new_operation(model, schema.AddOptionsT(), [code, first], [index]),
            new_operation(model, schema.GatherOptionsT(), [table, index], [result], version=2),
        ]

    axis, count = _parts(shape)
    if count == 1:
        return look_up(source, result, shape)
    part = [*shape[:axis], shape[axis] // count, *shape[axis + 1 :]]
    sources, results = (
        [add_tensor(model, graph, f"{name}/{end}", part, "int8", scale) for _ in range(count)]
        for end, scale in (("part", before), ("gelu", after))
    )
    split, join = schema.SplitOptionsT(), schema.ConcatenationOptionsT()
    split.numSplits, join.axis = count, axis
    along = add_constant(model, graph, f"{name}/axis", np.array([axis], np.int32))
    return [
        new_operation(model, split, [along, source], sources, version=2),
        *(step for ends in zip(sources, results, strict=True) for step in look_up(*ends, part)),
        new_operation(model, join, results, [result], version=2),
    ]


def _parts(shape: Sequence[int]) -> tuple[int, int]:
    """The axis along which a tensor is cut into equal parts, and how many they are."""
    wanted = min(4 * math.prod(shape) / _PART_BYTES, _PARTS[-1])
    cuts = [(axis, n) for n in _PARTS for axis, size in enumerate(shape) if size % n == 0]
    return next((cut for cut in cuts if cut[1] >= wanted), cuts[-1])


def gelu_table(before: Any, after: Any) -> AnyArray:
    """GELU of each int8, from the least.

    Args:
        before: quantization of the input, a ``QuantizationParametersT``.
        after: that of the output.

    Returns:
        int8 ``(256,)``.
    """
    values = (_CODES - before.zeroPoint[0]) * np.float64(before.scale[0])
    gelu = np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in values])
    codes = np.rint(gelu / np.float64(after.scale[0])) + after.zeroPoint[0]
    table: AnyArray = np.clip(codes, _CODES[0], _CODES[-1]).astype(np.int8)
    return table


def _transpose_patches(model: Any, graph: Any, operator: Any) -> list[Any]:
    """SPACE_TO_DEPTH as a TRANSPOSE of what is cut into rows and columns of patches."""
    source, result = operator.inputs[0], operator.outputs[0]
    tensor, size = graph.tensors[source], operator.builtinOptions.blockSize
    name, (_, height, width, channels) = tensor.name.decode(), tensor.shape
    rows, columns, line = height // size, width // size, size * channels

    def constant(numbers: Sequence[int]) -> int:
        return add_constant(model, graph, f"{name}/constant", np.array(numbers, np.int32))

    cut, turned = (
        add_tensor(model, graph, f"{name}/{part}", shape, "int8", tensor.quantization)
        for part, shape in (
            ("cut", (rows, size, columns, line)),
            ("turned", (rows, columns, size, line)),
        )
    )
    reshape = schema.ReshapeOptionsT
    whole = constant(graph.tensors[result].shape)
    cut_shape, order = constant((rows, size, columns, line)), constant((0, 2, 1, 3))
    return [
        new_operation(model, reshape(), [source, cut_shape], [cut]),
        new_operation(model, schema.TransposeOptionsT(), [cut, order], [turned], version=2),
        new_operation(model, reshape(), [turned, whole], [result]),
    ]


REWRITTEN: dict[str, Callable[[Any, Any, Any], list[Any]]] = {
    "GELU": _look_up_gelu,
    "SPACE_TO_DEPTH": _transpose_patches,
}
"""What can be written in other operations, and the function that does it."""
