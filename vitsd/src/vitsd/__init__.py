"""Vision Transformers for small datasets, trained from scratch with Keras 3.

>>> import vitsd
>>> config = vitsd.get_preset("vit-small-ds").config.for_data((32, 32, 3), num_classes=100)
>>> model = vitsd.build_vit(config)

The names below are imported on first use, so that ``import vitsd`` does not load Keras and its backend.
"""

from importlib import import_module

__version__ = "0.1.0"
_HOME = {
    "VitConfig": "config",
    "build_vit": "model.vit",
    "ShiftedPatchTokenization": "model.layers",
    "LocalitySelfAttention": "model.layers",
    "PositionEmbedding": "model.layers",
    "Preset": "presets",
    "TrainingRecipe": "recipe",
    "get_preset": "presets",
    "list_presets": "presets",
    "Dataset": "data.dataset",
    "load_dataset": "data.dataset",
    "train": "training.train",
    "evaluate": "evaluation.evaluate",
    "explain": "evaluation.explain",
    "from_pretrained": "hub.pretrained",
    "push_to_hub": "hub.pretrained",
    "save_model": "hub.saving",
    "load_model": "hub.saving",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'vitsd' has no attribute {name!r}")
    return getattr(import_module(f"vitsd.{_HOME[name]}"), name)


def __dir__():
    return [*globals(), *__all__]
