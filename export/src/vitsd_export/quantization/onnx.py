"""Quantize a float ONNX model dense layer by dense layer, with onnxruntime.

A dense layer is a MatMul whose weights are constant; its name is the scope in which the graph made
it. Static layers get QuantizeLinear and DequantizeLinear around their input, weights and bias
(QDQ), and none at their output: onnxruntime then runs one operation from int8 to float, which
measured 8 % faster than an int8 output, and rounds less.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from vitsd_export.graph.layer_names import scope_of
from vitsd_export.graph.module import INPUT_NAME
from vitsd_export.quantization.ranges import Distribution, RangeMethod, collect
from vitsd_export.quantization.recipe import Choices, LayerChoice
from vitsd_export.quiet import quiet_logger
from vitsd_runtime.engines.onnx import import_onnxruntime
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.files import temporary_folder
from vitsd_runtime.system.text import first_line
from vitsd_runtime.types import AnyArray

_PRODUCTS = ["MatMul", "Gemm"]


class OnnxQuantizer:
    """Makes quantized versions of one float model.

    Args:
        float_model: with the input ``images``.
        layers: the names of its dense layers.
        calibration: inputs ``(n, ...)`` of the model for the ranges of activations; needed for
            static layers.

    Raises:
        VitsdError: a layer is not there.
    """

    def __init__(
        self, float_model: onnx.ModelProto, layers: Sequence[str], calibration: AnyArray | None
    ) -> None:
        self._model, self._calibration = float_model, calibration
        constants = {tensor.name for tensor in float_model.graph.initializer}
        self._dense = {
            scope_of(node.name): node
            for node in float_model.graph.node
            if node.op_type == "MatMul" and node.input[1] in constants
        }
        if missing := [name for name in layers if name not in self._dense]:
            raise VitsdError(
                f"tf2onnx did not keep {missing[0]} as a MatMul with constant weights."
            )

    def build(self, layers: Choices) -> bytes:
        """The model with ``dynamic`` or ``static`` dense layers (not both), the rest in float.

        Args:
            layers: the choice for each dense layer.

        Raises:
            OSError: there is no space for temporary files.
            VitsdError: layers of both kinds in one file, or static ones without images.
        """
        chosen = {name: c for name, c in layers.items() if c.precision != "float"}
        nodes = {self._dense[name].name: choice for name, choice in chosen.items()}
        if not nodes:
            return bytes(self._model.SerializeToString())
        precisions = {choice.precision for choice in nodes.values()}
        if len(precisions) > 1 or not precisions <= {"dynamic", "static"}:
            raise VitsdError(
                f"ONNX layers can't be {' and '.join(sorted(precisions))} in one file."
            )
        import_onnxruntime()  # before any other import of it
        quantize = self._dynamic if precisions == {"dynamic"} else self._static
        # onnxruntime's quantizer gives advice through the root logger.
        with temporary_folder() as scratch, quiet_logger(None):
            path = scratch / "model.onnx"
            try:
                quantize(path, nodes)
            except DecodeError as error:  # of a file that onnxruntime wrote, and does not check
                raise OSError(
                    errno.EIO, "can't be read back; is the disk full?", str(scratch.parent)
                ) from error
            return path.read_bytes()

    def _dynamic(self, path: Path, nodes: Mapping[str, LayerChoice]) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            copy.deepcopy(self._model),  # because it works in place
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=list(nodes),
        )

    def _static(self, path: Path, nodes: Mapping[str, LayerChoice]) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        if self._calibration is None:
            raise VitsdError("Ranges of activations need calibration images.")
        model = copy.deepcopy(self._model)
        _join_biases(model, nodes)
        inputs = {node.name: node.input[0] for node in self._dense.values()}
        ranges: dict[str, list[dict[str, Any]]] = {}
        for node, choice in nodes.items():
            ranges.setdefault(inputs[node], [self._range(inputs[node], choice.method)])
        quantize_static(
            model,
            path,
            _OneImage(self._calibration[:1]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(nodes),
            op_types_to_quantize=_PRODUCTS,
            extra_options={
                "OpTypesToExcludeOutputQuantization": _PRODUCTS,
                "TensorQuantOverrides": ranges,
            },
        )

    def _range(self, tensor: str, method: RangeMethod) -> dict[str, Any]:
        low, high = self._distributions[tensor].range(method)
        return {"rmin": np.float32(min(low, 0.0)), "rmax": np.float32(max(high, 0.0))}

    @cached_property
    def _distributions(self) -> dict[str, Distribution]:
        """Of the tensors that dense layers read."""
        names = sorted({node.input[0] for node in self._dense.values()})
        session = _session_with_outputs(self._model, names)

        def walk() -> Iterator[dict[str, AnyArray]]:
            for image in self._calibration if self._calibration is not None else ():
                values = session.run(names, {INPUT_NAME: image[None]})
                yield dict(zip(names, values, strict=True))

        return collect((walk(), walk()))


def _join_biases(model: onnx.ModelProto, products: Container[str]) -> None:
    """Make products of two matrices that get a bias one operation each, in place.

    onnxruntime would do so before it looks for what is quantized, and compute them in float.

    Args:
        model: float.
        products: the names of the MatMul nodes that may be joined.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in inferred}
    biases = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 1}
    made = {node.output[0]: node for node in model.graph.node if node.name in products}
    for node in list(model.graph.node):
        names = sorted(node.input, key=biases.__contains__) if node.op_type == "Add" else []
        product = made.get(names[0]) if names and names[1] in biases else None
        if product is not None and ranks.get(product.output[0]) == 2:
            product.op_type = "Gemm"
            product.input.append(names[1])
            product.output[:] = node.output
            model.graph.node.remove(node)


class _OneImage:
    """Calibration data for onnxruntime: the ranges are given, but it insists on finding its own.

    Its CalibrationDataReader without importing it: anything with ``get_next`` will do.
    """

    def __init__(self, image: AnyArray) -> None:
        self._remaining = [{INPUT_NAME: image}]

    def get_next(self) -> dict[str, AnyArray] | None:
        """The next inputs; None at the end."""
        return self._remaining.pop() if self._remaining else None


def _session_with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> Any:
    """An onnxruntime session of the model that gives these tensors."""
    onnxruntime = import_onnxruntime()
    model = copy.deepcopy(model)
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise VitsdError(f"onnxruntime refused the model: {first_line(error)}") from error
