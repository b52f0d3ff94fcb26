"""What a ``.tflite`` is made for, and the check that its operations exist there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from vitsd_runtime.compatibility import newest_versions
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.types import QUANTIZATIONS, Quantization

TargetName = Literal[
    "litert", "tflite-runtime-2.14", "tflite-micro", "ethos-u55", "ethos-u65", "ethos-u85"
]
TARGET_NAMES: tuple[TargetName, ...] = get_args(TargetName)


@dataclass(frozen=True)
class Target:
    """What files are made for."""

    name: TargetName
    excluded: tuple[Quantization, ...] = ()
    """What its kernels can't run."""
    dynamic_per_channel: bool = True
    """Whether it knows one scale per output in layers that quantize their activations at run
    time."""
    exp_attention: bool = True
    """Whether :attr:`vitsd_export.graph.options.GraphOptions.exp_attention` may be used."""
    rewritten: tuple[str, ...] = ()
    """Operations that it has no kernels for, of those that
    :mod:`vitsd_export.formats.tflite_rewrites` can do without."""


_ALL_BUT_INTEGERS: tuple[Quantization, ...] = tuple(q for q in QUANTIZATIONS if q != "int8-full")

TARGETS: dict[TargetName, Target] = {
    target.name: target
    for target in (
        Target("litert"),
        # With 4-bit weights it crashes instead of refusing. Its XNNPACK has no EXP.
        Target("tflite-runtime-2.14", ("int4",), dynamic_per_channel=False, exp_attention=False),
        Target("tflite-micro", _ALL_BUT_INTEGERS, rewritten=("GELU",)),
        Target("ethos-u55", _ALL_BUT_INTEGERS, rewritten=("SPACE_TO_DEPTH",)),
        Target("ethos-u65", _ALL_BUT_INTEGERS, rewritten=("SPACE_TO_DEPTH",)),
        Target("ethos-u85", _ALL_BUT_INTEGERS, rewritten=("SPACE_TO_DEPTH",)),
    )
}


def get_target(name: str) -> Target:
    """A target by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in TARGETS:
        raise UsageError(f"Unknown target {name!r}; use {', '.join(TARGETS)}.")
    return TARGETS[name]


def check_versions(versions: Mapping[str, int], target: Target) -> None:
    """Check that a target knows the operations of a file.

    Args:
        versions: of :func:`vitsd_export.formats.tflite_schema.operation_versions`.
        target: what the file is made for.

    Raises:
        VitsdError: it would refuse an operation; names it.
    """
    newest = newest_versions(target.name)
    for name, version in versions.items():
        known = newest.get(name, 0)
        if version > known:
            reason = f"it knows up to {known}" if known else "not known to work there"
            raise VitsdError(
                f"{target.name} would refuse the file: {name} version {version} ({reason}). Use "
                "`target=litert`."
            )
