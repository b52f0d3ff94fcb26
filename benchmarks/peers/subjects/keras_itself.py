"""Keras on TensorFlow, without an export."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.peers.subject import Run, Subject
from benchmarks.peers.workshop import MODEL, Workshop
from vitsd_runtime.types import Float32Array


def _build(workshop: Workshop, batch: int) -> Path:
    return workshop.folder / MODEL


def _start(path: Path, threads: int, batch: int) -> Run:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    model = Workshop(path.parent).plain

    def run(images: Float32Array) -> Float32Array:
        logits: Float32Array = np.asarray(model.predict(images, batch_size=batch, verbose=0))
        return logits

    return run


SUBJECTS = (Subject("Keras predict, TensorFlow", "Keras", "float32", _build, _start),)
