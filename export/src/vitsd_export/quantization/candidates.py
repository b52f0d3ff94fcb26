"""What a search tries: files of one model, run as a device runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from vitsd_export.quantization.recipe import Choices
from vitsd_runtime.engines import load_engine
from vitsd_runtime.types import AnyArray, Float32Array, Format

BATCH_SIZE = 32
"""Images that an engine gets at once."""


@dataclass(frozen=True)
class EngineCandidate:
    """A :class:`vitsd_export.quantization.search.Candidate` that the runtime's engine runs."""

    format: Format
    build: Callable[[Choices], bytes]
    """The file quantized as chosen; a quantizer's method."""
    inputs: AnyArray
    """Held-out images ``(n, ...)`` as the model takes them."""
    batch_size: int = BATCH_SIZE
    """Images at once; 1 where neighbors in a batch change an image's answer."""
    _building: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Quantizers hold back what is printed, log and cache: one at a time."""

    def logits(self, choices: Choices, count: int, num_threads: int) -> Float32Array:
        """Logits ``(count, classes)`` of that file for the first held-out images."""
        with self._building:
            content = self.build(choices)
        engine = load_engine(content, self.format, num_threads, self.batch_size)
        # TFLite engines are compiled for one size, and would run a rest image by image.
        size = self.batch_size if self.format == "tflite" else 1
        inputs = _padded(self.inputs[:count], size)
        starts = range(0, len(inputs), self.batch_size)
        logits = [engine.run(inputs[i : i + self.batch_size]) for i in starts]
        return np.concatenate(logits)[:count]


def _padded(inputs: AnyArray, multiple: int) -> AnyArray:
    missing = -len(inputs) % multiple
    return np.concatenate([inputs, np.zeros((missing, *inputs.shape[1:]), inputs.dtype)])
