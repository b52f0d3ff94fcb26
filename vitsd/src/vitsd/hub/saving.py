"""``model.keras`` files with a spec inside."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vitsd.config import VitConfig
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import read_spec, write_spec
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.files import atomic_write


def model_name(text: str) -> str:
    """What of ``text`` can be a model's name, which becomes part of file names; ``model`` if nothing can."""
    return re.sub(r"[^\w.\-]", "", text).lstrip("._-")[:100] or "model"


def save_model(model, path: str | os.PathLike, spec: ModelSpec) -> ModelSpec:
    """Save a model made by :func:`vitsd.build_vit` with its spec, whole or not at all.

    ``keras.saving.load_model`` opens the file too, once ``vitsd.model.layers`` is imported.
    """
    with atomic_write(path) as temporary:
        model.save(temporary)
        return write_spec(temporary, spec)


def load_model(path: str | os.PathLike):
    """Load what :func:`save_model` saved; returns ``(model, spec)``.

    The model is built from the spec's architecture and only its weights are read, so nothing in the file is executed,
    and the memory it takes is bounded by the file's size.

    Raises:
        UsageError: no such file, or a ``.keras`` file without a spec.
        VitsdError: it is cut off, damaged, or its parts don't fit each other.
    """
    path = Path(path)
    if path.suffix.lower() != ".keras":
        raise UsageError(f"{path} is not a .keras file.")
    spec = read_spec(path)
    if spec is None:
        raise UsageError(
            f"{path} carries no vitsd spec: save it with vitsd.save_model, or train with vitsd-train."
        )
    config = VitConfig.from_spec(spec)
    stored = path.stat().st_size
    if config.parameter_count() * 2 > stored:  # float16 is the smallest that weights are stored in
        raise VitsdError(
            f"{path}: its architecture has {config.parameter_count():,} weights, but the file holds only {stored:,} bytes."
        )

    from vitsd.model.vit import build_vit

    model = build_vit(config, mean=spec.mean, variance=spec.variance)
    try:
        model.load_weights(path)
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        raise VitsdError(f"{path}: its weights don't fit its architecture ({error}).") from error
    return model, spec
