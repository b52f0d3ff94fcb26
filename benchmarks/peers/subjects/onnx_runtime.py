"""Plain ONNX files, and what onnxruntime's own tools make of them, in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.peers.subject import Precision, Run, Subject
from benchmarks.peers.workshop import Workshop
from vitsd_runtime.engines.onnx import import_onnxruntime
from vitsd_runtime.types import Float32Array

Write = Callable[[Workshop, Path], object]


def _subject(name: str, precision: Precision, write: Write) -> Subject:
    def build(workshop: Workshop, batch: int) -> Path:
        file = f"{name.replace(', ', '-').replace(' ', '-')}.onnx"
        return workshop.make(file, lambda path: write(workshop, path))

    return Subject(f"onnxruntime, {name}", "onnxruntime", precision, build, start)


def start(path: Path, threads: int, batch: int) -> Run:
    """A session with all optimizations, as is the default."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(images: Float32Array) -> Float32Array:
        logits: Float32Array = session.run(None, {given.name: images})[0]
        return logits

    return run


def _copy(workshop: Workshop, path: Path) -> None:
    path.write_bytes(workshop.plain_onnx().read_bytes())


def _from_torch(workshop: Workshop, path: Path) -> None:
    path.write_bytes(workshop.torch_onnx().read_bytes())


def _slim(workshop: Workshop, path: Path) -> None:
    import onnxslim

    onnxslim.slim(str(workshop.plain_onnx()), str(path))


def _optimizer(workshop: Workshop, path: Path) -> None:
    import_onnxruntime()
    from onnxruntime.transformers import optimizer

    config = workshop.config
    found = optimizer.optimize_model(
        str(workshop.torch_onnx()),
        model_type="vit",
        num_heads=config.num_heads,
        hidden_size=config.hidden_dim,
    )
    found.save_model_to_file(str(path))


def _dynamic(source: Callable[[Workshop], Path]) -> Write:
    def write(workshop: Workshop, path: Path) -> None:
        import_onnxruntime()
        from onnxruntime import quantization

        quantization.quantize_dynamic(
            source(workshop), path, weight_type=quantization.QuantType.QInt8
        )

    return write


def _qdq(workshop: Workshop, path: Path) -> None:
    import_onnxruntime()
    from onnxruntime import quantization

    prepared = path.with_name("prepared.onnx")
    quantization.quant_pre_process(workshop.plain_onnx(), prepared)
    name = onnx.load(prepared).graph.input[0].name
    quantization.quantize_static(prepared, path, _Reader(name, workshop), per_channel=True)
    prepared.unlink()


class _Reader:
    """Calibration images, one by one, as onnxruntime asks for them."""

    def __init__(self, name: str, workshop: Workshop) -> None:
        images = np.asarray(workshop.calibration)
        self._batches: Iterator[Any] = iter([{name: image[None]} for image in images])

    def get_next(self) -> Any:
        return next(self._batches, None)


SUBJECTS = (
    _subject("Keras ONNX float32", "float32", _copy),
    _subject("Keras ONNX slimmed", "float32", _slim),
    _subject("Keras ONNX dynamic", "int8", _dynamic(Workshop.plain_onnx)),
    _subject("Keras ONNX QDQ int8", "int8", _qdq),
    _subject("PyTorch ONNX float32", "float32", _from_torch),
    _subject("PyTorch ONNX transformers.optimizer", "float32", _optimizer),
    _subject("PyTorch ONNX dynamic", "int8", _dynamic(Workshop.torch_onnx)),
)
