"""Quantise a float ``.tflite`` dense layer by dense layer, with ai-edge-quantizer.

The float file is the inference graph of :mod:`vitsd_export.graph.build`. A dense layer is a FULLY_CONNECTED operation with
constant weights; its name is the scope in which the graph made it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from vitsd_export.quantization.ranges import METHODS, Distribution, collect, least_error_limits
from vitsd_export.quantization.recipe import LayerChoice
from vitsd_runtime.engines.affine import dequantize, quantize
from vitsd_runtime.errors import VitsdError, first_line
from vitsd_runtime.system.stderr import quiet_stderr

_OPERATION_NAMES = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)
}


_FINE = (*METHODS, "p99.9")
TENSOR_GROUPS: dict[str, tuple[str, Sequence[str]]] = {
    # A blank patch has no variance: its inverse deviation is hundreds of times the others', and multiplies zeros.
    "first norm": ("first_norm/Rsqrt", ("minmax", "mse", *(f"max/{n}" for n in (4, 16, 64, 256)))),
    # 1 in float; more or less where the first norm was rounded or clipped.
    "second norm": ("second_norm/(?!mul)", ("max*1.25", "max*2", "max*4", "max*16")),
    "images": ("images", ("minmax",)),
    # The largest logits decide.
    "logits": ("PartitionedCall", ("minmax", "min/2", "min/4", "mse")),
    "patches": ("^patches/", _FINE),
    "scores": ("_scores/(?!Softmax)", _FINE),
    "attended": ("_attended/", _FINE),
    "inverse deviations": ("^Rsqrt", METHODS),
    "dense outputs": ("/MatMul", _FINE),
    "activations": ("Erf|[Rr]elu", _FINE),
    "residual stream": ("^add", _FINE),
    "normalised": ("^mul", _FINE),
    "others": ("", METHODS),
}
"""Tensors of an integer-only model whose ranges are chosen alike: pattern of their names (the first that matches counts),
and the ways that are tried."""


def tensor_group(tensor: str) -> str:
    """The one of :data:`TENSOR_GROUPS` that a tensor belongs to."""
    return next(
        group for group, (pattern, _) in TENSOR_GROUPS.items() if re.search(pattern, tensor)
    )


@dataclass(frozen=True)
class _DenseOperation:
    inputs: str
    """Name of the tensor that it reads."""
    outputs: str
    weights: str


Range = tuple[float, float] | tuple[np.ndarray, np.ndarray]
"""Smallest and largest value of a tensor, or of each output of a dense layer's weights."""


class TFLiteQuantizer:
    """Makes quantised versions of one float model.

    Args:
        float_model: a ``.tflite`` file's contents.
        layers: the names of its dense layers.
        calibration: float32 inputs ``(n, ...)`` of the model for the ranges of activations.
        dynamic_per_channel: one scale for each output of ``dynamic`` and ``int4`` layers, instead of one for all; more
            accurate, but unknown to old runtimes.
    """

    def __init__(
        self,
        float_model: bytes,
        layers: Sequence[str],
        calibration: np.ndarray | None,
        dynamic_per_channel: bool = True,
    ):
        self.float_model = float_model
        self._calibration, self._dynamic_per_channel = calibration, dynamic_per_channel
        self._dense = _dense_operations(float_model, layers)
        self._ranges: dict[tuple[str, str], Range] = {}

    def build(self, layers: Mapping[str, LayerChoice], integer_io: bool = False) -> bytes:
        """The model with its dense layers in the chosen precisions, and everything else in float."""
        from ai_edge_quantizer.qtyping import QuantGranularity

        quantizer = self._quantizer()
        granularity = QuantGranularity("CHANNELWISE" if self._dynamic_per_channel else "TENSORWISE")
        ranges: dict[str, Range] = {}
        for name, choice in layers.items():
            operation = self._dense[name]
            regex = f"^{re.escape(operation.outputs)};?$"
            if choice.precision == "static":
                quantizer.add_static_config(regex, "FULLY_CONNECTED", 8, 8)
                for tensor in (operation.inputs, operation.outputs):
                    # Layers that share their input, as queries and keys do, share its range: the first's.
                    ranges.setdefault(tensor, self._range(tensor, choice.method))
            elif choice.precision == "dynamic":
                quantizer.add_dynamic_config(regex, "FULLY_CONNECTED", 8, granularity)
            elif choice.precision == "int4":
                quantizer.add_dynamic_config(regex, "FULLY_CONNECTED", 4, granularity)
                if choice.method == "mse":
                    ranges[operation.weights] = self._clipped_weights(operation.weights)
        if integer_io:
            for end, tensor in zip(("INPUT", "OUTPUT"), self._ends, strict=True):
                quantizer.add_static_config(".*", end, 8, 8)
                ranges.setdefault(tensor, self._range(tensor, "minmax"))
        return self._quantize(quantizer, ranges)

    def build_integer(self, groups: Mapping[str, LayerChoice]) -> bytes:
        """The model with every operation, its input and its output in int8.

        Args:
            groups: how the ranges of each of :data:`TENSOR_GROUPS` are chosen.
        """
        quantizer = self._quantizer()
        quantizer.add_static_config(".*", "*", 8, 8)
        ranges = {
            name: self._range(name, groups[tensor_group(name)].method)
            for name in self._all_distributions
        }
        return self._quantize(quantizer, ranges)

    def _range(self, tensor: str, method: str) -> Range:
        if (tensor, method) not in self._ranges:
            known = (
                self._distributions if tensor in self._distributions else self._all_distributions
            )
            self._ranges[tensor, method] = known[tensor].range(method)
        return self._ranges[tensor, method]

    def _clipped_weights(self, tensor: str) -> Range:
        if (tensor, "mse") not in self._ranges:
            weights = _constants(self.float_model)[tensor]
            limits = least_error_limits(
                weights if self._dynamic_per_channel else weights.reshape(1, -1), bits=4
            )
            self._ranges[tensor, "mse"] = -limits, limits
        return self._ranges[tensor, "mse"]

    def _quantizer(self):
        from ai_edge_quantizer import quantizer  # takes a second to import

        logging.getLogger("absl").setLevel(logging.ERROR)
        return quantizer.Quantizer(self.float_model)

    def _quantize(self, quantizer, ranges: dict[str, Range]) -> bytes:
        if not quantizer.get_quantization_recipe():
            return self.float_model
        statistics = {
            name: {
                "min": np.asarray(low, np.float32).reshape(-1, 1),
                "max": np.asarray(high, np.float32).reshape(-1, 1),
            }
            for name, (low, high) in ranges.items()
        }
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                result = quantizer.quantize(
                    statistics or None, enable_progress_bar=False, enable_progress_report=False
                )
        except (ValueError, RuntimeError) as error:
            raise VitsdError(f"ai-edge-quantizer refused the graph: {first_line(error)}") from error
        return _finish(bytes(result.quantized_model))

    @cached_property
    def _distributions(self) -> dict[str, Distribution]:
        """Of the tensors that dense layers read and write, and of the model's own input and output."""
        wanted = {*self._ends}
        for operation in self._dense.values():
            wanted |= {operation.inputs, operation.outputs}
        return self._collect(wanted)

    @cached_property
    def _all_distributions(self) -> dict[str, Distribution]:
        return self._collect(None)

    @cached_property
    def _ends(self) -> tuple[str, str]:
        interpreter = Interpreter(model_content=self.float_model)
        return interpreter.get_input_details()[0]["name"], interpreter.get_output_details()[0][
            "name"
        ]

    def _collect(self, wanted: set[str] | None) -> dict[str, Distribution]:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the memory that this takes
            interpreter = Interpreter(
                model_content=self.float_model, experimental_preserve_all_tensors=True
            )
            interpreter.allocate_tensors()
        constants = _constants(self.float_model)
        details = [
            d
            for d in interpreter.get_tensor_details()
            if d["dtype"] == np.float32
            and d["name"] not in constants
            and (wanted is None or d["name"] in wanted)
        ]
        index = interpreter.get_input_details()[0]["index"]

        def walk() -> Iterator[dict[str, np.ndarray]]:
            for image in self._calibration:
                interpreter.set_tensor(index, image[None])
                interpreter.invoke()
                tensors = {}
                for d in details:
                    with contextlib.suppress(
                        ValueError
                    ):  # a tensor that the engine has optimised away
                        tensors[d["name"]] = interpreter.get_tensor(d["index"])
                yield tensors

        return collect((walk(), walk()))


def run_tflite(content: bytes, inputs: np.ndarray, threads: int) -> np.ndarray:
    """Float32 logits of a model given as bytes, for float32 inputs ``(n, ...)``; int8 ends are converted."""
    with quiet_stderr():
        interpreter = Interpreter(model_content=content, num_threads=threads)
        source = interpreter.get_input_details()[0]
        fixed = source["shape_signature"][0] == 1
        batch = 1 if fixed else min(32, len(inputs))
        if not fixed:
            interpreter.resize_tensor_input(source["index"], (batch, *source["shape"][1:]))
        interpreter.allocate_tensors()
    target = interpreter.get_output_details()[0]
    logits = []
    for start in range(0, len(inputs), batch):
        part = inputs[start : start + batch]
        padded = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)])
        if source["dtype"] != padded.dtype:
            padded = quantize(padded, *source["quantization"], source["dtype"])
        interpreter.set_tensor(source["index"], padded)
        interpreter.invoke()
        result = interpreter.get_tensor(target["index"])[: len(part)]
        logits.append(
            dequantize(result, *target["quantization"]) if target["quantization"][0] else result
        )
    return np.concatenate(logits)


def _finish(content: bytes) -> bytes:
    """Mend what ai-edge-quantizer leaves so that an old runtime would crash, or accept what it can't run."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = model.subgraphs
    for operator in graph.operators:
        if operation_name(model, operator) != "FULLY_CONNECTED":
            continue
        inputs, weights = (graph.tensors[i] for i in operator.inputs[:2])
        scales = weights.quantization.scale if weights.quantization else None
        if inputs.type == schema.TensorType.FLOAT32 and scales is not None and len(scales) > 1:
            # The rule of TensorFlow Lite's own converter (tensorflow/lite/tools/versioning/op_version.cc).
            code = model.operatorCodes[operator.opcodeIndex]
            code.version = max(code.version, 12)
        elif inputs.type == schema.TensorType.INT8 and (
            len(operator.inputs) < 3 or operator.inputs[2] < 0
        ):
            # On Arm, tflite-runtime 2.14 reads the bias of integer layers whether there is one or not (make arm64).
            bias = _zero_bias(
                model, graph, weights, inputs.quantization.scale[0] * np.asarray(scales, np.float64)
            )
            operator.inputs = np.array([*operator.inputs[:2], bias], np.int32)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _zero_bias(model, graph, weights, scales: np.ndarray) -> int:
    """Add an int32 bias of zeros for a layer with these weights ``(outputs, inputs)``; returns its tensor's number."""
    outputs = int(weights.shape[-2])
    buffer, tensor, quantization = (
        schema.BufferT(),
        schema.TensorT(),
        schema.QuantizationParametersT(),
    )
    buffer.data = np.zeros(4 * outputs, np.uint8)
    model.buffers.append(buffer)
    quantization.scale = scales.astype(np.float32)
    quantization.zeroPoint = np.zeros(len(scales), np.int64)
    tensor.name = weights.name + b"_bias"
    tensor.type, tensor.shape = schema.TensorType.INT32, np.array([outputs], np.int32)
    tensor.buffer, tensor.quantization = len(model.buffers) - 1, quantization
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _dense_operations(content: bytes, layers: Sequence[str]) -> dict[str, _DenseOperation]:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = model.subgraphs
    found = {}
    for operator in graph.operators:
        weights = graph.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
        if (
            operation_name(model, operator) != "FULLY_CONNECTED"
            or model.buffers[weights.buffer].data is None
        ):
            continue
        scope = weights.name.decode().split("/")[0]
        if scope in layers:
            names = (
                graph.tensors[i].name.decode()
                for i in (operator.inputs[0], operator.outputs[0], operator.inputs[1])
            )
            found[scope] = _DenseOperation(*names)
    if missing := [name for name in layers if name not in found]:
        raise VitsdError(f"The converter did not keep {missing[0]} as a FULLY_CONNECTED operation.")
    return {name: found[name] for name in layers}


def _constants(content: bytes) -> dict[str, np.ndarray]:
    """Float32 constants by name; of other types, no elements."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    found = {}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None:
            is_float = tensor.type == schema.TensorType.FLOAT32
            values = (
                np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)
                if is_float
                else np.empty(0)
            )
            found[tensor.name.decode()] = values
    return found


def operation_name(model, operator) -> str:
    """``FULLY_CONNECTED`` ... of an operator of a model read with flatbuffer_utils."""
    code = model.operatorCodes[operator.opcodeIndex]
    return _OPERATION_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
