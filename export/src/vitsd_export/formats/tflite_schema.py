"""Read and patch ``.tflite`` files as the flatbuffers that they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from vitsd_export.graph.layer_names import scope_of
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.types import AnyArray, FloatArray

_OPERATION_NAMES: dict[int, str] = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)
}
_PER_CHANNEL_VERSION = 12
"""Of FULLY_CONNECTED: the first that knows one scale per output with float inputs (the rule of
TensorFlow Lite's own converter, tensorflow/lite/tools/versioning/op_version.cc)."""

_LARGEST_OLD_CODE = 127
"""What the older field of an operation's kind holds for all newer ones
(``PLACEHOLDER_FOR_GREATER_OP_CODES``)."""
_WITH_WEIGHTS = ("FULLY_CONNECTED", "CONV_2D")


@dataclass(frozen=True)
class DenseOperation:
    """An operation with constant weights, and its tensors by name."""

    kind: str
    """FULLY_CONNECTED or CONV_2D."""
    inputs: str
    outputs: str
    weights: str


def operation_versions(content: bytes) -> dict[str, int]:
    """``{"FULLY_CONNECTED": 12, ...}``: the operations of a file and their newest version."""
    model = parse_model(content)
    versions: dict[str, int] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = operation_name(model, operator)
            version = model.operatorCodes[operator.opcodeIndex].version
            versions[name] = max(versions.get(name, 1), version)
    return versions


def find_dense_operations(content: bytes, layers: Sequence[str]) -> dict[str, DenseOperation]:
    """The operations of dense layers and convolutions, found by the scope of their weights.

    Args:
        content: a file.
        layers: the layers' names.

    Raises:
        VitsdError: a layer is not there.
    """
    model = parse_model(content)
    (graph,) = model.subgraphs
    operations = {}
    for operator in _operators(model, graph, *_WITH_WEIGHTS):
        weights = graph.tensors[operator.inputs[1]]
        scope = scope_of(_name(weights))
        if scope in layers and model.buffers[weights.buffer].data is not None:
            tensors = (operator.inputs[0], operator.outputs[0], operator.inputs[1])
            operations[scope] = DenseOperation(
                operation_name(model, operator), *(_name(graph.tensors[i]) for i in tensors)
            )
    if missing := [name for name in layers if name not in operations]:
        raise VitsdError(
            f"The converter did not keep {missing[0]} as one of {', '.join(_WITH_WEIGHTS)}."
        )
    return {name: operations[name] for name in layers}


def end_quantizations(content: bytes) -> tuple[tuple[float, int], tuple[float, int]]:
    """Scale and zero point of the input and of the output of an integer-only file."""
    (graph,) = parse_model(content).subgraphs
    image, logits = (graph.tensors[i].quantization for i in (graph.inputs[0], graph.outputs[0]))
    return (
        (float(image.scale[0]), int(image.zeroPoint[0])),
        (float(logits.scale[0]), int(logits.zeroPoint[0])),
    )


def read_constants(content: bytes) -> dict[str, AnyArray]:
    """Float32 constants by name; those of other types without elements."""
    model = parse_model(content)
    constants: dict[str, AnyArray] = {}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None:
            values: AnyArray = np.empty(0)
            if tensor.type == schema.TensorType.FLOAT32:
                values = np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)
            constants[_name(tensor)] = values
    return constants


def fix_quantized(content: bytes) -> bytes:
    """Work around three outputs of ai-edge-quantizer that other readers mishandle.

    tflite-runtime 2.14 accepts dynamic layers with one scale per output, whose version
    ai-edge-quantizer leaves too low, and can't run them; and on Arm it reads the bias of integer
    layers whether there is one or not, and crashes (``make arm64``). OpenVINO finds the kind of an
    operation in the schema's older field, which ai-edge-quantizer leaves at 0, an ADD.
    """
    model = parse_model(content)
    (graph,) = model.subgraphs
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode = min(_builtin_code(code), _LARGEST_OLD_CODE)
    for operator in _operators(model, graph, "FULLY_CONNECTED"):
        inputs, weights = (graph.tensors[i] for i in operator.inputs[:2])
        scales = weights.quantization.scale if weights.quantization else None
        per_channel = scales is not None and len(scales) > 1
        has_bias = len(operator.inputs) > 2 and operator.inputs[2] >= 0
        if inputs.type == schema.TensorType.FLOAT32 and per_channel:
            code = model.operatorCodes[operator.opcodeIndex]
            code.version = max(code.version, _PER_CHANNEL_VERSION)
        elif inputs.type == schema.TensorType.INT8 and not has_bias:
            products = inputs.quantization.scale[0] * np.asarray(scales, np.float64)
            bias = _add_zero_bias(model, graph, weights, products)
            operator.inputs = np.array([*operator.inputs[:2], bias], np.int32)
    return serialize_model(model)


def fix_batch(content: bytes) -> bytes:
    """Fix the number of images at one, for runtimes that refuse sizes that are open (-1)."""
    model = parse_model(content)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.shapeSignature = None  # its shape, which is that of one image, holds then
    return serialize_model(model)


def _add_zero_bias(model: Any, graph: Any, weights: Any, scales: FloatArray) -> int:
    """Add an int32 bias of zeros for weights ``(outputs, inputs)``; returns its tensor's number."""
    quantization = schema.QuantizationParametersT()
    quantization.scale = scales.astype(np.float32)
    quantization.zeroPoint = np.zeros(len(scales), np.int64)
    zeros = np.zeros(weights.shape[-2], np.int32)
    return add_constant(model, graph, f"{_name(weights)}_bias", zeros, quantization)


def parse_model(content: bytes) -> Any:
    """A file as the objects of TensorFlow Lite's schema, a ``ModelT``."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for buffer in model.buffers:
        # As bytes, which they are where they lie behind the FlatBuffer, writing them takes seconds.
        if buffer.data is not None:
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return model


def serialize_model(model: Any) -> bytes:
    """The inverse of :func:`parse_model`."""
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def operation_name(model: Any, operator: Any) -> str:
    """The kind of an operation, as in ``BuiltinOperator``."""
    return _OPERATION_NAMES[_builtin_code(model.operatorCodes[operator.opcodeIndex])]


def add_constant(
    model: Any, graph: Any, name: str, values: AnyArray, quantization: Any = None
) -> int:
    """Add a constant of int8 or int32; returns its tensor's number."""
    number = add_tensor(model, graph, name, values.shape, values.dtype.name, quantization)
    buffer = model.buffers[graph.tensors[number].buffer]
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    return number


def add_tensor(
    model: Any,
    graph: Any,
    name: str,
    shape: Sequence[int],
    dtype: str,
    quantization: Any = None,
) -> int:
    """Add a tensor, with a buffer of its own; returns its number."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape = name.encode(), np.array(shape, np.int32)
    tensor.type = getattr(schema.TensorType, dtype.upper())
    tensor.quantization = quantization
    model.buffers.append(schema.BufferT())
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def new_operation(
    model: Any, options: Any, inputs: Sequence[int], outputs: Sequence[int], version: int = 1
) -> Any:
    """An operation, for one of a graph's ``operators``.

    Args:
        model: where its kind is noted.
        options: of the schema's ``...OptionsT``, whose name tells the kind too.
        inputs: numbers of tensors.
        outputs: numbers of tensors.
        version: that the kind has at least.
    """
    operator = schema.OperatorT()
    table = type(options).__name__.removesuffix("T")  # SpaceToDepthOptions
    kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", table.removesuffix("Options")).upper()
    operator.opcodeIndex = _find_code(model, getattr(schema.BuiltinOperator, kind), version)
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
    operator.builtinOptions = options
    return operator


def _find_code(model: Any, number: int, version: int) -> int:
    """Index of a kind of operation, in this version at least; added if it is not there."""
    for i, code in enumerate(model.operatorCodes):
        if _builtin_code(code) == number:
            code.version = max(code.version, version)
            return i
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = number, version
    code.deprecatedBuiltinCode = min(number, _LARGEST_OLD_CODE)
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _operators(model: Any, graph: Any, *kinds: str) -> Iterator[Any]:
    for operator in graph.operators:
        if operation_name(model, operator) in kinds:
            yield operator


def _builtin_code(code: Any) -> int:
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _name(tensor: Any) -> str:
    return str(tensor.name.decode())
