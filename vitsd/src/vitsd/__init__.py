"""Vision Transformers for small datasets, trained from scratch with Keras 3.

>>> import vitsd
>>> config = vitsd.get_preset("vit-small-ds").config.for_data((32, 32, 3), num_classes=100)
>>> model = vitsd.build_vit(config)

The names below are imported on first use, so that ``import vitsd`` does not load Keras and its
backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitsd_runtime.system.version import version_of

if TYPE_CHECKING:  # for editors and type checkers; the same names as in _MODULES
    from vitsd.config import VitConfig
    from vitsd.data.dataset import Dataset
    from vitsd.data.sources import load_dataset
    from vitsd.evaluation.evaluate import evaluate
    from vitsd.evaluation.explain import explain
    from vitsd.hub.pretrained import from_pretrained, push_to_hub
    from vitsd.hub.saving import load_model, save_model
    from vitsd.model.layers import (
        LocalitySelfAttention,
        PositionEmbedding,
        ShiftedPatchTokenization,
    )
    from vitsd.model.vit import build_vit
    from vitsd.presets import Preset, get_preset, list_presets
    from vitsd.recipe import TrainingRecipe
    from vitsd.training.train import train

__all__ = [
    "Dataset",
    "LocalitySelfAttention",
    "PositionEmbedding",
    "Preset",
    "ShiftedPatchTokenization",
    "TrainingRecipe",
    "VitConfig",
    "build_vit",
    "evaluate",
    "explain",
    "from_pretrained",
    "get_preset",
    "list_presets",
    "load_dataset",
    "load_model",
    "push_to_hub",
    "save_model",
    "train",
]

_MODULES = {
    "Dataset": "data.dataset",
    "LocalitySelfAttention": "model.layers",
    "PositionEmbedding": "model.layers",
    "Preset": "presets",
    "ShiftedPatchTokenization": "model.layers",
    "TrainingRecipe": "recipe",
    "VitConfig": "config",
    "build_vit": "model.vit",
    "evaluate": "evaluation.evaluate",
    "explain": "evaluation.explain",
    "from_pretrained": "hub.pretrained",
    "get_preset": "presets",
    "list_presets": "presets",
    "load_dataset": "data.sources",
    "load_model": "hub.saving",
    "push_to_hub": "hub.pretrained",
    "save_model": "hub.saving",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version_of("vitsd")
    if name not in _MODULES:
        raise AttributeError(f"module 'vitsd' has no attribute {name!r}")
    return getattr(import_module(f"vitsd.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "__version__"})
