"""Run exported vitsd models: NumPy preprocessing and whichever inference engine is installed.

>>> from vitsd_runtime import Classifier
>>> classifier = Classifier.load("model-int8.tflite")  # without argument: the bundled model
>>> classifier.predict(["a.jpg", "b.png"], top_k=3)
"""

from __future__ import annotations

from vitsd_runtime.classifier import Classifier, Prediction
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import read_spec
from vitsd_runtime.images import Augmenter, load_image, preprocess
from vitsd_runtime.models.catalog import bundled_model
from vitsd_runtime.spec import ModelSpec

__all__ = [
    "Augmenter",
    "Classifier",
    "ModelSpec",
    "Prediction",
    "UsageError",
    "VitsdError",
    "bundled_model",
    "load_image",
    "preprocess",
    "read_spec",
]


def __getattr__(name: str) -> str:
    if name == "__version__":  # looked up when asked for: it takes a tenth of the import
        from vitsd_runtime.system.version import version_of

        return version_of("vitsd-runtime")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
