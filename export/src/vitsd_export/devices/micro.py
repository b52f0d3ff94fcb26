"""Run files in the interpreter of microcontrollers: TensorFlow Lite Micro, ``tflite-micro``."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from vitsd_export.devices import micro_process as process
from vitsd_runtime.engines.base import import_optional
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.child import run_in_child
from vitsd_runtime.system.files import temporary_folder
from vitsd_runtime.types import Float32Array

_MAX_SECONDS = 3600
"""For all images: a model of 0.85 M weights takes 0.06 seconds for one."""


@dataclass(frozen=True)
class MicroRun:
    """What the interpreter made of a file."""

    interpreter: str
    """Its name and version."""
    arena: int
    """The smallest arena, in bytes, in which the file runs."""
    logits: Float32Array
    """``(n, classes)``."""
    step: float
    """By which logits differ whose int8 values are neighbors."""


def require_micro() -> None:
    """Check that the interpreter is installed.

    Raises:
        VitsdError: it is not.
    """
    if import_optional("tflite_micro") is None:
        raise VitsdError(
            "Files for `target=tflite-micro` are proven in its interpreter, which is not "
            'installed: pip install "vitsd-export[micro]" (Linux on 64-bit x86).'
        )


def run_micro(content: bytes, inputs: Float32Array) -> MicroRun:
    """Run a file on a microcontroller's interpreter, in a process of its own, which it may end.

    Args:
        content: a ``.tflite`` file with int8 input and output.
        inputs: ``(n, ...)`` as the model takes them, preprocessed.

    Raises:
        VitsdError: the interpreter is not installed, or can't run the file.
    """
    require_micro()
    with temporary_folder() as folder:
        (folder / process.MODEL).write_bytes(content)
        np.save(folder / process.INPUTS, inputs)
        failure = run_in_child(process.__name__, str(folder), seconds=_MAX_SECONDS)
        if failure is not None:
            raise VitsdError(f"TensorFlow Lite Micro can't run the file: {failure}")
        logits: Float32Array = np.load(folder / process.LOGITS)
        return MicroRun(logits=logits, **json.loads((folder / process.REPORT).read_text()))
