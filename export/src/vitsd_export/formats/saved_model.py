"""The inference graph as a SavedModel."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from vitsd_export.quiet import quiet_logger
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import first_line

VERSION = "1"
"""Name of the folder inside, as TensorFlow Serving wants it."""


def write_saved_model(module: Any, folder: Path) -> None:
    """Write a SavedModel in TensorFlow Serving's layout.

    Args:
        module: of :func:`vitsd_export.graph.module.inference_module`.
        folder: to be made; holds ``1/saved_model.pb`` with the signature ``serving_default``.

    Raises:
        OSError: the disk is full.
        VitsdError: TensorFlow can't write it for another reason.
    """
    signatures = {"serving_default": module.serve}
    try:
        with quiet_logger("absl"):
            tf.saved_model.save(module, str(folder / VERSION), signatures=signatures)
    except tf.errors.OpError as error:
        if "No space left" in str(error):  # TensorFlow 2.21
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise VitsdError(f"TensorFlow can't write a SavedModel: {first_line(error)}") from error
