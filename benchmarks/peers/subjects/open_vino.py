"""OpenVINO on Keras' exports, in each precision that it offers; and on our ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.subject import OURS, Run, Subject
from benchmarks.peers.subjects import ours
from benchmarks.peers.workshop import Workshop
from vitsd_runtime.types import Float32Array


def _keras_export(workshop: Workshop, batch: int) -> Path:
    def write(path: Path) -> None:
        workshop.plain.export(str(path), format="openvino")

    return workshop.make("keras.xml", write)


def _converted(source: Callable[[Workshop], Path], name: str) -> Callable[[Workshop, int], Path]:
    """The intermediate representation; weights stay float32."""

    def build(workshop: Workshop, batch: int) -> Path:
        import openvino

        path = workshop.folder / f"openvino-{name}.xml"
        if not path.exists():
            model = openvino.convert_model(str(source(workshop)))
            openvino.save_model(model, path, compress_to_fp16=False)
        return path

    return build


def _nncf(workshop: Workshop, batch: int) -> Path:
    import nncf
    import openvino

    path = workshop.folder / "openvino-nncf.xml"
    if not path.exists():
        model = openvino.Core().read_model(workshop.plain_onnx())
        images = nncf.Dataset([image[None] for image in np.asarray(workshop.calibration)])
        quantized = nncf.quantize(model, images, model_type=nncf.ModelType.TRANSFORMER)
        openvino.save_model(quantized, path)
    return path


def _start(precision: str, path: Path, threads: int, batch: int) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([batch, *list(model.input(0).partial_shape)[1:]])
    config: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,  # the process is bound to its cores already
    }
    request = core.compile_model(model, "CPU", config).create_infer_request()

    def run(images: Float32Array) -> Float32Array:
        logits: Float32Array = request.infer([images])[0].copy()
        return logits

    return run


_float32, _bfloat16 = partial(_start, "f32"), partial(_start, "bf16")
_plain = _converted(Workshop.plain_onnx, "plain")
_torch = _converted(Workshop.torch_onnx, "torch")
_our_onnx = _converted(lambda workshop: ours.SUBJECTS[4].build(workshop, 1), "vitsd")
SUBJECTS = (
    Subject("Keras export to OpenVINO", "OpenVINO", "float32", _keras_export, _float32),
    Subject("OpenVINO float32, Keras ONNX", "OpenVINO", "float32", _plain, _float32),
    Subject("OpenVINO bf16, Keras ONNX", "OpenVINO", "bfloat16", _plain, _bfloat16),
    Subject("OpenVINO float32, PyTorch ONNX", "OpenVINO", "float32", _torch, _float32),
    Subject("OpenVINO bf16, PyTorch ONNX", "OpenVINO", "bfloat16", _torch, _bfloat16),
    Subject("OpenVINO NNCF int8, Keras ONNX", "OpenVINO", "int8", _nncf, _float32),
    Subject("vitsd ONNX float32 in OpenVINO", OURS, "float32", _our_onnx, _float32),
    Subject("vitsd ONNX float32 in OpenVINO bf16", OURS, "bfloat16", _our_onnx, _bfloat16),
)
