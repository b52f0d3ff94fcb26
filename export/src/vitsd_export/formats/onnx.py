"""The inference graph as an ONNX model."""

from __future__ import annotations

from typing import Any

import onnx

from vitsd_export.formats.onnx_fusion import fuse
from vitsd_export.graph.module import INPUT_NAME, OUTPUT_NAME
from vitsd_export.quiet import quiet_logger
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import first_line


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

    model: onnx.ModelProto
    signature = module.serve.input_signature
    try:
        with quiet_logger("tf2onnx"):
            model, _ = tf2onnx.convert.from_function(
                module.serve, input_signature=signature, opset=opset
            )
    except Exception as error:  # of any kind
        raise VitsdError(f"tf2onnx refused the graph: {first_line(error)}") from error
    return model


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
