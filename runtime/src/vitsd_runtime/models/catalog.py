"""The trained models that come with the runtime, for use without one of one's own."""

from __future__ import annotations

from pathlib import Path

BUNDLED = "vit-edge-cifar100"
"""It knows CIFAR-100's 100 classes: animals, plants, vehicles, household things, landscapes."""


def bundled_model() -> Path:
    """The bundled model's ``.tflite`` file: int8, for ai-edge-litert and tflite-runtime 2.14."""
    return Path(__file__).with_name(f"{BUNDLED}.tflite")
