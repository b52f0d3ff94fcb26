"""What people would otherwise export: the plain Keras graph, with the converters' own defaults."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

from vitsd.config import VitConfig
from vitsd.model.vit import build_vit
from vitsd_runtime.system.stderr import quiet_stderr


def plain_module(model, config: VitConfig, batch: int | None) -> tf.Module:
    """A module whose ``serve`` is the Keras graph from preprocessed float32 images, as ours take them, to logits."""
    size = config.image_size
    twin = build_vit(dataclasses.replace(config, input_size=(size, size, config.input_size[2])))
    twin.set_weights(model.get_weights())
    signature = tf.TensorSpec((batch, size, size, config.input_size[2]), name="images")
    module = tf.Module()
    module.serve = tf.function(
        lambda images: {"logits": tf.identity(twin(images, training=False), "logits")}, [signature]
    )
    return module


def tflite(
    module: tf.Module, optimise: bool = False, calibration: np.ndarray | None = None
) -> bytes:
    """TensorFlow's converter; ``optimise`` alone is dynamic-range int8, with ``calibration`` images full int8."""
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Not from_saved_model, which leaves the weights variables that calibration can't read.
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [module.serve.get_concrete_function()]
        )
        if optimise:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if calibration is not None:
            converter.representative_dataset = lambda: ([image[None]] for image in calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        return converter.convert()


def onnx(module: tf.Module, path: Path) -> None:
    """tf2onnx. Its version 1.17 can't convert the Erfc that Keras' exact GELU has become, so that is mended."""
    import tf2onnx
    from onnx import TensorProto, helper, save
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    for name in ("tf2onnx", "tensorflow"):  # they report the Erfc, and their own future
        logging.getLogger(name).setLevel(logging.CRITICAL)
    frozen = convert_variables_to_constants_v2(module.serve.get_concrete_function())
    (output,) = frozen.outputs
    model, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(), input_names=["images:0"], output_names=[output.name], opset=17
    )
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, (), [1.0]))
    for index, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type == "Erfc":
            (name,) = node.output
            node.op_type, node.output[0] = "Erf", f"{name}_complement"
            model.graph.node.insert(
                index + 1, helper.make_node("Sub", ["one", f"{name}_complement"], [name])
            )
    save(model, path)
