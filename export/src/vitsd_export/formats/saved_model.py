"""The inference graph as a SavedModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from vitsd_export.quiet import quiet_logger

VERSION = "1"
"""Name of the folder inside, as TensorFlow Serving wants it."""


def write_saved_model(module: Any, folder: Path) -> None:
    """Write a SavedModel in TensorFlow Serving's layout.

    Args:
        module: of :func:`vitsd_export.graph.module.inference_module`.
        folder: to be made; holds ``1/saved_model.pb`` with the signature ``serving_default``.
    """
    signatures = {"serving_default": module.serve}
    with quiet_logger("absl"):
        tf.saved_model.save(module, str(folder / VERSION), signatures=signatures)
