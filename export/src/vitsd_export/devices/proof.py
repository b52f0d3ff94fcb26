"""Prove a file on what it is made for, as far as that can be had on the exporting machine."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vitsd.evaluation.metrics import agreement
from vitsd_export.devices.ethos_u import ACCELERATORS, compile_with_vela, find_vela
from vitsd_export.devices.micro import require_micro, run_micro
from vitsd_runtime.spec import ExportInfo, MicroFigures
from vitsd_runtime.system.files import temporary_folder
from vitsd_runtime.types import Float32Array

_MICRO = "tflite-micro"
DEVICES = (_MICRO, *ACCELERATORS)
"""Targets of which more is known than what a file's operations are."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a file may need and do on its device."""

    arena: int
    """Bytes that a microcontroller has for it; 0: any number."""
    difference: float
    """By which a logit may differ from LiteRT's."""


@dataclass(frozen=True)
class Proof:
    """What is known of a file on its device."""

    info: ExportInfo
    """With the figures of the device."""
    logits: Float32Array
    """``(n, classes)``: the device's own, else those of the engine on this machine."""
    failures: tuple[str, ...] = ()
    compiled: bytes | None = None
    """For an NPU."""


def check_installed(target: str) -> None:
    """Before all work: what a target's files can't do without.

    Raises:
        VitsdError: it is not installed.
    """
    if target == _MICRO:
        require_micro()
    elif target in ACCELERATORS and find_vela() is None:
        _log.warning(
            "Vela is not installed, so files for `target=%s` are not compiled: "
            'pip install "vitsd-export[ethos-u]".',
            target,
        )


def prove(
    content: bytes,
    info: ExportInfo,
    inputs: Float32Array,
    logits: Float32Array,
    limits: Limits,
) -> Proof:
    """Run or compile a file as its target wants it.

    Args:
        content: a ``.tflite`` file.
        info: of the file; says which of :data:`DEVICES` it is made for.
        inputs: ``(n, ...)`` as the model takes them, preprocessed.
        logits: ``(n, classes)``, what LiteRT made of them.
        limits: what must hold.

    Raises:
        VitsdError: the interpreter or the compiler refuses the file.
    """
    if info.target == _MICRO:
        return _prove_micro(content, info, inputs, logits, limits)
    vela = find_vela()
    if vela is None:
        return Proof(info, logits)
    with temporary_folder() as folder:
        accelerator = ACCELERATORS[info.target]
        compiled, npu = compile_with_vela(vela, content, accelerator, folder)
    left = npu.cpu_operators
    failures = (f"{left} of its operators stay on the CPU",) if left else ()
    return Proof(dataclasses.replace(info, npu=npu), logits, failures, compiled)


def _prove_micro(
    content: bytes, info: ExportInfo, inputs: Float32Array, logits: Float32Array, limits: Limits
) -> Proof:
    run = run_micro(content, inputs)
    difference = float(np.abs(run.logits - logits).max())
    figures = MicroFigures(
        run.interpreter,
        run.arena,
        images=len(inputs),
        steps=round(difference / run.step),
        agreement=agreement(run.logits, logits),
    )
    failures = _beyond(run.arena, difference, limits)
    return Proof(dataclasses.replace(info, micro=figures), run.logits, tuple(failures))


def _beyond(arena: int, difference: float, limits: Limits) -> Iterator[str]:
    if 0 < limits.arena < arena:
        yield (
            f"it needs an arena of {arena:,} bytes (`arena` is {limits.arena:,}): train a model "
            "with fewer tokens, a smaller `hidden_dim` or fewer layers"
        )
    if difference > limits.difference:
        yield (
            f"a logit in TensorFlow Lite Micro is {difference:.2g} from LiteRT's (at most "
            f"{limits.difference:.2g})"
        )
