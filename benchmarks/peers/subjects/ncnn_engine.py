"""ncnn, converted by pnnx."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.peers.subject import Run, Subject
from benchmarks.peers.workshop import Workshop
from vitsd_runtime.types import Float32Array


def _build(workshop: Workshop, batch: int) -> Path:
    import pnnx
    import torch

    folder = workshop.folder / "ncnn"
    path = folder / "model.ncnn.param"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        size, channels = workshop.config.image_size, workshop.config.input_size[2]
        images = torch.zeros(1, size, size, channels)
        pnnx.export(workshop.torch(), str(folder / "model.pt"), (images,), fp16=False)
    return path


def _start(path: Path, threads: int, batch: int) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ValueError(f"ncnn refuses {path.name}")

    def run(images: Float32Array) -> Float32Array:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(images[0]))
        _, logits = extractor.extract("out0")
        return np.array(logits, np.float32).reshape(1, -1)

    return run


# ncnn has no batches: its users call it image by image.
SUBJECTS = (
    Subject("ncnn float32", "ncnn", "float32", _build, _start, any_batch=False, batched=False),
)
