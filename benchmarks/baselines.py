"""What people would otherwise export: the plain Keras graph, with the converters' own defaults."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from typing import Any

import tensorflow as tf
from onnx import TensorProto, helper

from vitsd.config import VitConfig
from vitsd.model.vit import build_vit
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.types import Float32Array

_OPSET = 17


def plain_model(model: Any, config: VitConfig) -> Any:
    """The Keras graph from preprocessed float32 images, as our graphs take them, to logits.

    Args:
        model: the Keras model.
        config: its architecture.
    """
    size, channels = config.image_size, config.input_size[2]
    twin = build_vit(dataclasses.replace(config, input_size=(size, size, channels)))
    twin.set_weights(model.get_weights())
    return twin


def plain_module(model: Any, config: VitConfig, batch: int | None) -> Any:
    """A ``tf.Module`` whose ``serve`` is :func:`plain_model`.

    Args:
        model: the Keras model.
        config: its architecture.
        batch: images at once; None: any number.
    """
    twin = plain_model(model, config)
    size, channels = config.image_size, config.input_size[2]
    signature = tf.TensorSpec((batch, size, size, channels), name="images")
    module = tf.Module()
    module.serve = tf.function(
        lambda images: {"logits": tf.identity(twin(images, training=False), "logits")}, [signature]
    )
    return module


def to_tflite(
    module: Any, optimize: bool = False, calibration: Float32Array | None = None
) -> bytes:
    """Convert with TensorFlow's converter.

    Args:
        module: of :func:`plain_module`.
        optimize: dynamic-range int8; with ``calibration``, full int8.
        calibration: preprocessed images ``(n, image_size, image_size, channels)``.
    """
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Not from_saved_model, which leaves the weights variables that calibration can't read.
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [module.serve.get_concrete_function()]
        )
        if optimize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if calibration is not None:
            converter.representative_dataset = lambda: ([image[None]] for image in calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        content: bytes = converter.convert()
    return content


def to_onnx(module: Any) -> bytes:
    """Convert with tf2onnx.

    Its version 1.17 can't convert the Erfc that Keras' exact GELU has become, so that is replaced
    by 1 - Erf.
    """
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    for name in ("tf2onnx", "tensorflow"):  # they report the Erfc, and their own future
        logging.getLogger(name).setLevel(logging.CRITICAL)
    frozen = convert_variables_to_constants_v2(module.serve.get_concrete_function())
    (output,) = frozen.outputs
    model, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=["images:0"],
        output_names=[output.name],
        opset=_OPSET,
    )
    _replace_erfc(model.graph)
    content: bytes = model.SerializeToString()
    return content


def _replace_erfc(graph: Any) -> None:
    graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, (), [1.0]))
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "Erfc":
            (name,) = node.output
            node.op_type, node.output[0] = "Erf", f"{name}_complement"
            subtract = helper.make_node("Sub", ["one", f"{name}_complement"], [name])
            graph.node.insert(index + 1, subtract)
