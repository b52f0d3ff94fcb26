"""The process in which :mod:`vitsd_export.devices.micro` runs a file.

The interpreter says only on stderr why it refuses a file and how much memory it uses, and ends the
process where the memory is much too small. What goes back and forth lies in a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitsd_runtime.engines.affine import dequantize, quantize
from vitsd_runtime.engines.base import import_optional
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import AnyArray

MODEL, INPUTS, LOGITS, REPORT = "model.tflite", "inputs.npy", "logits.npy", "report.json"

_ALIGNMENT = 16
"""Bytes that an arena's parts begin at multiples of."""
_LARGEST_ARENA = 64 * 2**20
"""Bytes; no microcontroller has as many."""


def main(folder: str) -> None:
    """Run the model in a folder on the inputs there, and leave logits and a report.

    Raises:
        VitsdError: the interpreter refuses the model; says why.
    """
    here = Path(folder)
    content, inputs = (here / MODEL).read_bytes(), np.load(here / INPUTS)
    with _held_stderr() as printed:
        try:
            arena = _smallest_arena(content, printed)
            interpreter = _open(content, arena)
            scale, zero_point = _affine(interpreter.get_input_details(0))
            step, shift = _affine(interpreter.get_output_details(0))
            images = quantize(inputs, scale, zero_point, np.int8)
            codes = [_invoke(interpreter, image[None]) for image in images]
        except RuntimeError as error:
            reason = next(iter(printed.text().splitlines()), str(error))
            raise VitsdError(printable(reason)) from error
    np.save(here / LOGITS, dequantize(np.concatenate(codes), step, shift))
    version = f"tflite-micro {_package().__version__}"
    report = {"interpreter": version, "arena": arena, "step": step}
    (here / REPORT).write_text(json.dumps(report))


def _package() -> Any:
    return import_optional("tflite_micro")


def _open(content: bytes, arena: int) -> Any:
    return _package().runtime.Interpreter.from_bytes(content, arena_size=arena)


def _invoke(interpreter: Any, image: AnyArray) -> AnyArray:
    interpreter.set_input(image, 0)
    interpreter.invoke()
    codes: AnyArray = interpreter.get_output(0).copy()
    return codes


def _affine(details: Any) -> tuple[float, int]:
    """Scale and zero point."""
    parameters = details["quantization_parameters"]
    return float(parameters["scales"][0]), int(parameters["zero_points"][0])


def _smallest_arena(content: bytes, printed: _Printed) -> int:
    """By bisection upwards from what is in use when the model is ready: planning may need more.

    Never below that: it is there that the interpreter ends the process.
    """
    interpreter = _open(content, _LARGEST_ARENA)
    interpreter.invoke()
    interpreter.print_allocations()
    used = re.search(r"Arena allocation total (\d+)", printed.text())
    if used is None:
        raise VitsdError("it does not say how much memory it uses.")
    least, most = int(used[1]) // _ALIGNMENT, _LARGEST_ARENA // _ALIGNMENT
    while least < most:
        middle = min((least + most) // 2, 2 * least)
        if _runs(content, middle * _ALIGNMENT):
            most = middle
        else:
            least = middle + 1
    return most * _ALIGNMENT


def _runs(content: bytes, arena: int) -> bool:
    try:
        _open(content, arena).invoke()
    except RuntimeError:
        return False
    return True


class _Printed:
    """What was written to the file descriptor of stderr."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def text(self) -> str:
        """Its first lines."""
        self._file.seek(0)
        content: bytes = self._file.read(20_000)
        self._file.seek(0, os.SEEK_END)
        return content.decode("utf-8", "replace").strip()


@contextlib.contextmanager
def _held_stderr() -> Iterator[_Printed]:
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield _Printed(file)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
