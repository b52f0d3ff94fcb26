"""ExecuTorch with its XNNPACK backend."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.peers.subject import Run, Subject
from benchmarks.peers.workshop import Workshop
from vitsd_runtime.types import Float32Array

Kind = Literal["float32", "dynamic int8", "static int8"]
_CALIBRATION_IMAGES = 64


def _build(kind: Kind, workshop: Workshop, batch: int) -> Path:
    name = f"executorch-{kind.replace(' ', '-')}-{batch}.pte"
    return workshop.make(name, lambda path: path.write_bytes(_convert(workshop, kind, batch)))


def _convert(workshop: Workshop, kind: Kind, batch: int) -> bytes:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    size, channels = workshop.config.image_size, workshop.config.input_size[2]
    example = (torch.zeros(batch, size, size, channels),)
    program = torch.export.export(workshop.torch(), example)
    if kind != "float32":
        module = _quantize(workshop, program.module(), batch, kind == "dynamic int8")
        program = torch.export.export(module, example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    content: bytes = lowered.to_executorch().buffer
    return content


def _quantize(workshop: Workshop, module: Any, batch: int, dynamic: bool) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    prepared = prepare_pt2e(module, xnnpack.XNNPACKQuantizer().set_global(config))
    images = np.array(workshop.calibration[: max(batch, _CALIBRATION_IMAGES)])
    for start in range(0, len(images) - batch + 1, batch):
        prepared(torch.from_numpy(images[start : start + batch]))
    return convert_pt2e(prepared)


def _start(path: Path, threads: int, batch: int) -> Run:
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    # Its pool has as many threads as there are cores, which are those that the process is bound to.
    getattr(portable_lib, "_unsafe_reset_threadpool", lambda _: None)(threads)
    method = Runtime.get().load_program(path.read_bytes()).load_method("forward")

    def run(images: Float32Array) -> Float32Array:
        logits: Float32Array = method.execute([torch.from_numpy(images)])[0].numpy()
        return logits

    return run


def _subject(kind: Kind) -> Subject:
    precision: Literal["float32", "int8"] = "float32" if kind == "float32" else "int8"
    build = partial(_build, kind)
    return Subject(f"ExecuTorch {kind}", "ExecuTorch", precision, build, _start, any_batch=False)


SUBJECTS = (_subject("float32"), _subject("dynamic int8"), _subject("static int8"))
