"""The plain graph by TensorFlow's converter, run by LiteRT's interpreter and CompiledModel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.subject import Run, Subject
from benchmarks.peers.workshop import Workshop
from vitsd_runtime.engines.affine import dequantize, quantize
from vitsd_runtime.types import AnyArray, Float32Array

Build = Callable[[Workshop, int], Path]


def _keras_export(workshop: Workshop, batch: int) -> Path:
    return workshop.make("keras.tflite", lambda path: workshop.plain.export(path, format="litert"))


def _converter(name: str, optimize: bool = False, calibrate: bool = False) -> Build:
    """TFLiteConverter; a graph for calibration has a fixed batch size."""

    def build(workshop: Workshop, batch: int) -> Path:
        def write(path: Path) -> None:
            from benchmarks import baselines

            fixed = batch if calibrate else None
            module = baselines.plain_module(workshop.trained, workshop.config, fixed)
            images = workshop.calibration if calibrate else None
            path.write_bytes(baselines.to_tflite(module, optimize, images))

        return workshop.make(f"converter-{name}{f'-{batch}' if calibrate else ''}.tflite", write)

    return build


def _interpreter(path: Path, threads: int, batch: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    (given,), (asked,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], (batch, *given["shape"][1:]))
    interpreter.allocate_tensors()

    def run(images: Float32Array) -> Float32Array:
        interpreter.set_tensor(given["index"], _into(images, given))
        interpreter.invoke()
        return _out_of(interpreter.get_tensor(asked["index"]), asked)

    return run


def _into(images: Float32Array, tensor: dict[str, Any]) -> AnyArray:
    if tensor["dtype"] == np.float32:
        return images
    scale, zero_point = tensor["quantization"]
    return quantize(images, scale, zero_point, tensor["dtype"])


def _out_of(values: AnyArray, tensor: dict[str, Any]) -> Float32Array:
    if tensor["dtype"] == np.float32:
        return values
    return dequantize(values, *tensor["quantization"])


def _compiled_model(path: Path, threads: int, batch: int) -> Run:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    model = CompiledModel.from_file(
        str(path), options=Options(cpu_options=CpuOptions(num_threads=threads))
    )
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    classes = Workshop(path.parent).spec.num_classes

    def run(images: Float32Array) -> Float32Array:
        inputs[0].write(images)
        model.run_by_index(0, inputs, outputs)
        logits: Float32Array = np.array(outputs[0].read(batch * classes, np.float32))
        return logits.reshape(batch, classes)

    return run


def _fixed_batch(workshop: Workshop, batch: int) -> Path:
    """CompiledModel takes no other batch size than the file's."""

    def write(path: Path) -> None:
        from benchmarks import baselines

        module = baselines.plain_module(workshop.trained, workshop.config, batch)
        path.write_bytes(baselines.to_tflite(module, optimize=True))

    return workshop.make(f"compiled-dynamic-{batch}.tflite", write)


GROUP = "TensorFlow converter"
SUBJECTS = (
    Subject("Keras export to LiteRT", GROUP, "float32", _keras_export, _interpreter),
    Subject("TFLiteConverter float32", GROUP, "float32", _converter("float32"), _interpreter),
    Subject(
        "TFLiteConverter dynamic", GROUP, "int8", _converter("dynamic", optimize=True), _interpreter
    ),
    Subject(
        "TFLiteConverter full int8",
        GROUP,
        "int8",
        _converter("int8", optimize=True, calibrate=True),
        _interpreter,
        any_batch=False,
    ),
    Subject(
        "LiteRT CompiledModel, dynamic",
        GROUP,
        "int8",
        _fixed_batch,
        _compiled_model,
        any_batch=False,
    ),
)
