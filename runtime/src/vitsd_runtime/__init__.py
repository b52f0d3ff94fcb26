"""Run exported vitsd models: NumPy preprocessing and whichever inference engine is installed.

>>> from vitsd_runtime import Classifier
>>> classifier = Classifier.load("model-int8.tflite")  # without argument: the bundled model
>>> classifier.predict(["a.jpg", "b.png"], top_k=3)
"""

from vitsd_runtime.classifier import Classifier, Prediction
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats.spec_io import read_spec
from vitsd_runtime.images.augmentation import Augmenter
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.models.catalog import bundled_model
from vitsd_runtime.spec import ModelSpec

__version__ = "0.1.0"
__all__ = [
    "Augmenter",
    "Classifier",
    "ModelSpec",
    "Prediction",
    "UsageError",
    "VitsdError",
    "bundled_model",
    "preprocess",
    "read_spec",
]
