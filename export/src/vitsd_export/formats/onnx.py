"""The inference graph as an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import tensorflow as tf

from vitsd_export.formats.onnx_fusion import fuse
from vitsd_export.graph.module import INPUT_NAME, OUTPUT_NAME
from vitsd_export.quiet import quiet_logger
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import first_line
from vitsd_runtime.types import AnyArray

_LARGE_WEIGHT = 1_000_000
"""Bytes. tf2onnx copies the whole graph at every step: with the 75 MB of a flattened head in it,
a conversion takes half a minute instead of a few seconds."""


def to_onnx(module: Any, opset: int) -> onnx.ModelProto:
    """Convert with tf2onnx; checked, with a dynamic batch and named input and output.

    Args:
        module: of :func:`vitsd_export.graph.module.inference_module`.
        opset: version of the standard operators.

    Raises:
        VitsdError: tf2onnx or the ONNX checker refused the graph.
    """
    model = _convert(module, opset)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    # tf2onnx names the batch differently in each; checkers infer them anew.
    del model.graph.value_info[:]
    # The graph uses the standard operators only.
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", opset))
    model.producer_name = "vitsd"
    fuse(model, opset)
    _check(model)
    return model


def _convert(module: Any, opset: int) -> onnx.ModelProto:
    import tf2onnx

    concrete = module.serve.get_concrete_function()
    graph_def = concrete.graph.as_graph_def()
    weights = _take_weights(graph_def)
    (images,), (logits,) = concrete.inputs, concrete.outputs
    model: onnx.ModelProto
    try:
        with quiet_logger("tf2onnx"):
            model, _ = tf2onnx.convert.from_graph_def(
                graph_def,
                input_names=[images.name, *(f"{name}:0" for name in weights)],
                output_names=[logits.name],
                opset=opset,
                tensors_to_rename={images.name: INPUT_NAME, logits.name: OUTPUT_NAME},
            )
    except Exception as error:  # of any kind
        raise VitsdError(f"tf2onnx refused the graph: {first_line(error)}") from error
    _put_weights(model, weights)
    return model


def _take_weights(graph_def: Any) -> dict[str, AnyArray]:
    """Replace large constants by inputs of the graph, in place; returns them by name."""
    weights = {}
    for node in graph_def.node:
        if node.op == "Const" and node.ByteSize() > _LARGE_WEIGHT:
            weights[node.name] = tf.make_ndarray(node.attr["value"].tensor)
            shape = node.attr["value"].tensor.tensor_shape
            node.op = "Placeholder"
            node.attr["shape"].shape.CopyFrom(shape)
            del node.attr["value"]
    return weights


def _put_weights(model: onnx.ModelProto, weights: Mapping[str, AnyArray]) -> None:
    """The inverse of :func:`_take_weights`, for the converted graph."""
    graph = model.graph
    inputs = {tensor.name: tensor for tensor in graph.input}
    for name, values in weights.items():
        tensor = f"{name}:0"
        graph.input.remove(inputs[tensor])
        graph.initializer.append(onnx.numpy_helper.from_array(values, tensor))


def _check(model: onnx.ModelProto) -> None:
    names = [tensor.name for tensor in (*model.graph.input, *model.graph.output)]
    if names != [INPUT_NAME, OUTPUT_NAME]:
        raise VitsdError(
            f"tf2onnx named the model's tensors {names}; expected {INPUT_NAME} and {OUTPUT_NAME}."
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VitsdError(
            f"The ONNX checker refused the converted graph: {first_line(error)}"
        ) from error
