"""MNN, with float32 and with int8 weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.subject import Run, Subject
from benchmarks.peers.workshop import Workshop
from vitsd_runtime.types import Float32Array

GROUP = "MNN"


def _converted(name: str, options: Sequence[str] = ()) -> Callable[[Workshop, int], Path]:
    def build(workshop: Workshop, batch: int) -> Path:
        return workshop.make(f"mnn-{name}.mnn", lambda path: _convert(workshop, path, options))

    return build


def _convert(workshop: Workshop, path: Path, options: Sequence[str]) -> None:
    tool = Path(sys.prefix) / "bin" / "mnnconvert"
    source = ["-f", "ONNX", "--modelFile", str(workshop.torch_onnx())]
    command = [str(tool), *source, "--MNNModel", str(path), "--bizCode", "vitsd", *options]
    subprocess.run(command, check=True, capture_output=True)


def _start(path: Path, threads: int, batch: int) -> Run:
    import MNN

    config = ({"backend": "CPU", "numThread": threads, "precision": "high"},)
    manager = MNN.nn.create_runtime_manager(config)
    options = {"runtime_manager": manager, "shape_mutable": True}
    module = MNN.nn.load_module_from_file(str(path), ["images"], ["logits"], **options)

    def run(images: Float32Array) -> Float32Array:
        given = MNN.expr.const(images, list(images.shape), MNN.expr.NCHW)
        logits: Float32Array = np.array(module.forward(given).read())
        return logits

    return run


SUBJECTS = (
    Subject("MNN float32", GROUP, "float32", _converted("float32"), _start),
    Subject(
        "MNN int8 weights", GROUP, "int8", _converted("int8", ["--weightQuantBits", "8"]), _start
    ),
)
