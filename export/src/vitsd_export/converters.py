"""From the one inference graph to files: SavedModel, TFLite, ONNX. Each function writes to the path it is given."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
from tensorflow.lite.python.util import modify_model_io_type

from vitsd_export.graph import INPUT_NAME, OUTPUT_NAME
from vitsd_runtime.console import quiet_stderr
from vitsd_runtime.errors import VitsdError

FLOAT_IN_INT8 = (
    "BATCH_MATMUL",
    "SOFTMAX",
    "GELU",
    "MEAN",
    "RSQRT",
    "SQUARED_DIFFERENCE",
    "SQUARE",
    "MUL",
    "SUB",
    "ADD",
)
"""TFLite operations that an ``int8`` file runs in float. In int8, XNNPACK takes none of the first six, so each splits the
graph; a blank patch has no variance, so its RSQRT would take the whole quantisation range; and the diagonal mask would
take that of the scores."""


def write_saved_model(module: tf.Module, folder: Path) -> None:
    """A SavedModel in TensorFlow Serving's layout: ``folder/1/saved_model.pb``, signature ``serving_default``."""
    tf.saved_model.save(module, str(folder / "1"), signatures={"serving_default": module.serve})


def write_tflite(
    saved_model: Path,
    path: Path,
    quantize: str = "none",
    calibration: np.ndarray | None = None,
    integer_io: bool = False,
) -> None:
    """Convert a SavedModel of :func:`write_saved_model`.

    Args:
        quantize: ``none``; ``float16`` (weights); ``dynamic`` (int8 weights, activations quantised at run time); ``int8``
            (dense layers in int8, their activations' ranges taken over ``calibration``; attention and normalisation stay
            in float, where int8 kernels are both slower and, on this model family, wrong).
        calibration: representative inputs ``(n, ...)`` in the graph's own terms, for ``int8``.
        integer_io: int8 input and output tensors, for ``int8``.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model / "1"))
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    try:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TensorFlow's own future
            content = _convert_int8(converter, calibration, integer_io) if quantize == "int8" else converter.convert()
    except (ValueError, RuntimeError) as error:
        raise VitsdError(f"TensorFlow's TFLite converter refused the graph: {str(error).splitlines()[0]}") from error
    path.write_bytes(content)


def _convert_int8(converter, calibration: np.ndarray, integer_io: bool) -> bytes:
    def representative() -> Iterator[dict[str, np.ndarray]]:
        for image in calibration:
            yield {INPUT_NAME: image[None]}

    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    # The only public way to keep chosen operations in float.
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=representative,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=list(FLOAT_IN_INT8)),
    )
    content = debugger.get_nondebug_quantized_model()
    # The debugger ignores the converter's inference_input_type; this is the step that would have followed it.
    return modify_model_io_type(content, tf.int8, tf.int8) if integer_io else content


def to_onnx(module: tf.Module, opset: int) -> onnx.ModelProto:
    """Convert with tf2onnx; checked, with a dynamic batch and named input and output."""
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    signature = module.serve.input_signature
    try:
        model, _ = tf2onnx.convert.from_function(module.serve, input_signature=signature, opset=opset)
    except Exception as error:  # of any kind
        raise VitsdError(f"tf2onnx refused the graph: {error}") from error
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # tf2onnx names the batch differently in each; checkers infer them anew
    # The graph uses the standard operators only.
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", opset))
    model.producer_name = "vitsd"
    names = [t.name for t in (*model.graph.input, *model.graph.output)]
    if names != [INPUT_NAME, OUTPUT_NAME]:
        raise VitsdError(f"tf2onnx named the model's tensors {names}; expected {INPUT_NAME} and {OUTPUT_NAME}.")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VitsdError(f"The ONNX checker refused the converted graph: {error}") from error
    return model


def write_onnx(model: onnx.ModelProto, path: Path, quantize: str = "none") -> None:
    """Write a model of :func:`to_onnx`; ``quantize="dynamic"`` rounds its weights to int8 with onnxruntime."""
    if quantize == "none":
        path.write_bytes(model.SerializeToString())
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the quantiser gives advice there
    try:  # on a copy, because it works in place
        quantize_dynamic(copy.deepcopy(model), path, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        root.setLevel(level)
