"""The trained model that comes with the runtime, for use without one of one's own."""

from __future__ import annotations

from pathlib import Path

BUNDLED = "vit-edge-cifar100"
"""Its name. It knows the 100 classes of CIFAR-100: animals, plants, vehicles, household things, landscapes."""


def bundled_model() -> Path:
    """The ``.tflite`` file of the bundled model: int8, for ai-edge-litert and for tflite-runtime 2.14."""
    return Path(__file__).with_name(f"{BUNDLED}.tflite")
