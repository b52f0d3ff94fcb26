"""The inference graph as a ``.tflite`` file."""

from __future__ import annotations

import warnings
from pathlib import Path

import tensorflow as tf

from vitsd_export.formats.saved_model import VERSION
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.system.text import first_line


def to_tflite(saved_model: Path, float16: bool = False) -> bytes:
    """Convert a SavedModel.

    Args:
        saved_model: folder of :func:`vitsd_export.formats.saved_model.write_saved_model`.
        float16: round the weights to that type.

    Raises:
        VitsdError: TensorFlow's converter refused the graph.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model / VERSION))
    if float16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    try:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TensorFlow's own future
            content: bytes = converter.convert()
    except (ValueError, RuntimeError) as error:
        raise VitsdError(
            f"TensorFlow's TFLite converter refused the graph: {first_line(error)}"
        ) from error
    return content
