"""``model.keras`` files with a spec inside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from vitsd.config import VitConfig
from vitsd.hub.weights_file import check_weights, largest_file
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import require_spec, write_spec
from vitsd_runtime.formats.keras import read_weights
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import PathLike

if TYPE_CHECKING:
    import keras

MODEL_FILE = "model.keras"
"""A trained model's file in a run folder, and in a repository of the Hub."""
_SMALLEST_WEIGHT = 2
"""Bytes: float16 is the smallest type that weights are stored in."""


def model_name(text: str) -> str:
    """Sanitize ``text`` for use in file names; falls back to ``model``."""
    return re.sub(r"[^\w.\-]", "", text).lstrip("._-")[:100] or "model"


def save_model(model: keras.Model, path: PathLike, spec: ModelSpec) -> ModelSpec:
    """Save a model made by :func:`vitsd.build_vit` with its spec, whole or not at all.

    ``keras.saving.load_model`` opens the file too, once ``vitsd.model.vit`` is imported.

    Args:
        model: the model.
        path: of the file, ending in ``.keras``.
        spec: of the model.

    Returns:
        The spec with its integrity filled in, as it stands in the file.

    Raises:
        UsageError: something is in the way that can't be replaced by a file.
    """
    with atomic_write(path) as temporary:
        model.save(temporary)
        return write_spec(temporary, spec)


def load_model(path: PathLike) -> tuple[keras.Model, ModelSpec]:
    """Load what :func:`save_model` saved.

    The model is built from the spec's architecture and only its weights are read, so nothing in
    the file is executed. What it holds is checked first, so the memory it takes is bounded by the
    file's size.

    Args:
        path: a ``.keras`` file.

    Returns:
        The model, from uint8 or float images to float32 logits, and its spec.

    Raises:
        UsageError: no such file, or a ``.keras`` file without a spec.
        VitsdError: it is cut off, damaged, or its parts don't fit each other.
    """
    path = Path(path)
    if path.suffix.lower() != ".keras":
        raise UsageError(f"{printable(path)} is not a .keras file.")
    spec = require_spec(path)
    try:
        config = VitConfig.from_spec(spec)
    except UsageError as error:
        raise VitsdError(f"{printable(path)}: {error}") from error
    _check_weights(path, config)

    from vitsd.model.vit import build_vit

    model = build_vit(config, mean=spec.mean, variance=spec.variance)
    try:
        model.load_weights(path)
    except Exception as error:  # Keras and h5py raise many kinds
        raise VitsdError(
            f"{printable(path)}: its weights don't fit its architecture ({first_line(error)})."
        ) from error
    return model, spec


def _check_weights(path: Path, config: VitConfig) -> None:
    """Raise VitsdError unless the file holds the weights that the architecture has."""
    stored, weights = path.stat().st_size, config.parameter_count()
    if weights * _SMALLEST_WEIGHT > stored:
        raise VitsdError(
            f"{printable(path)}: its architecture has {weights:,} weights, but the file holds only "
            f"{stored:,} bytes."
        )
    shapes = list(config.weight_shapes())
    content = read_weights(path, largest_file(shapes))
    try:
        check_weights(content, shapes)
    except VitsdError as error:
        raise VitsdError(f"{printable(path)}: {error}.") from error
