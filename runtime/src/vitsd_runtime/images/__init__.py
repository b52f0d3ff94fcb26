"""From image files of any size to what a model sees, in NumPy."""

from vitsd_runtime.images.augmentation import Augmenter
from vitsd_runtime.images.loading import load_image
from vitsd_runtime.images.preprocessing import preprocess

__all__ = ["Augmenter", "load_image", "preprocess"]
