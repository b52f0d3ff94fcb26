"""From the one inference graph to files: SavedModel, TFLite, ONNX. Each function writes to the path it is given."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import tensorflow as tf

from vitsd_export.formats.onnx_fusion import fuse
from vitsd_export.graph.build import INPUT_NAME, OUTPUT_NAME
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.stderr import quiet_stderr


def write_saved_model(module: tf.Module, folder: Path) -> None:
    """A SavedModel in TensorFlow Serving's layout: ``folder/1/saved_model.pb``, signature ``serving_default``."""
    tf.saved_model.save(module, str(folder / "1"), signatures={"serving_default": module.serve})


def to_tflite(saved_model: Path, float16: bool = False) -> bytes:
    """Convert a SavedModel of :func:`write_saved_model`; ``float16`` rounds its weights to that type."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model / "1"))
    if float16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    try:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TensorFlow's own future
            return converter.convert()
    except (ValueError, RuntimeError) as error:
        raise VitsdError(
            f"TensorFlow's TFLite converter refused the graph: {str(error).splitlines()[0]}"
        ) from error


def to_onnx(module: tf.Module, opset: int) -> onnx.ModelProto:
    """Convert with tf2onnx; checked, with a dynamic batch and named input and output."""
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    signature = module.serve.input_signature
    try:
        model, _ = tf2onnx.convert.from_function(
            module.serve, input_signature=signature, opset=opset
        )
    except Exception as error:  # of any kind
        raise VitsdError(f"tf2onnx refused the graph: {error}") from error
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[
        :
    ]  # tf2onnx names the batch differently in each; checkers infer them anew
    # The graph uses the standard operators only.
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", opset))
    model.producer_name = "vitsd"
    fuse(model, opset)
    names = [t.name for t in (*model.graph.input, *model.graph.output)]
    if names != [INPUT_NAME, OUTPUT_NAME]:
        raise VitsdError(
            f"tf2onnx named the model's tensors {names}; expected {INPUT_NAME} and {OUTPUT_NAME}."
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VitsdError(f"The ONNX checker refused the converted graph: {error}") from error
    return model
