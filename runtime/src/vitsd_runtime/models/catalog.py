"""The trained models that come with the runtime, for use without one of one's own."""

from __future__ import annotations

from pathlib import Path

from vitsd_runtime.types import PathLike

BUNDLED = "vit-edge-cifar100"
"""The one that is used where none is named."""
MODELS = (BUNDLED, "vit-micro-cifar100")
"""They know CIFAR-100's 100 classes: animals, plants, vehicles, household things, landscapes."""


def bundled_model(name: str = BUNDLED) -> Path:
    """The ``.tflite`` file of one of :data:`MODELS`: int8, also for tflite-runtime 2.14."""
    return Path(__file__).with_name(f"{name}.tflite")


def bundled_name(path: Path) -> str | None:
    """The name of the bundled model that lies there; None for any other file."""
    return path.stem if path.stem in MODELS and path == bundled_model(path.stem) else None


def find_model(name_or_path: PathLike) -> Path:
    """The file of a bundled model, if that is its name; else the path as it is.

    What lies under the path itself takes precedence.
    """
    path = Path(name_or_path)
    return bundled_model(str(path)) if str(path) in MODELS and not path.exists() else path
