"""Inference engines, each imported only when a model needs it.

An engine takes a batch ``(n, ...)`` in the model's own terms (float32 preprocessed, or uint8
pixels where preprocessing is embedded), any ``n >= 1``, and returns float32 logits
``(n, classes)``. All of them may be called from several threads. In a forked child they open the
model anew, but for TensorFlow, which is an error there.
"""

from vitsd_runtime.engines.base import Engine
from vitsd_runtime.engines.load import load_engine

__all__ = ["Engine", "load_engine"]
