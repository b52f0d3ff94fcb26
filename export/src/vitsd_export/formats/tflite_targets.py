"""Which runtimes a ``.tflite`` is made for, and the check that its operations exist there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.types import Quantization

TargetName = Literal["litert", "tflite-runtime-2.14"]
TARGET_NAMES: tuple[TargetName, ...] = get_args(TargetName)


@dataclass(frozen=True)
class Target:
    """A runtime that files are made for."""

    name: TargetName
    excluded: tuple[Quantization, ...]
    """What its kernels can't run."""
    dynamic_per_channel: bool
    """Whether it knows one scale per output in layers that quantize their activations at run
    time."""
    exp_attention: bool
    """Whether :attr:`vitsd_export.graph.options.GraphOptions.exp_attention` may be used."""
    versions: Mapping[str, int] | None = None
    """Newest version of each operation that it accepts; None: not limited."""


TARGETS: dict[TargetName, Target] = {
    "litert": Target("litert", (), dynamic_per_channel=True, exp_attention=True),
    # Found by loading files with raised version numbers in tflite-runtime 2.14.0. With 4-bit
    # weights it crashes instead of refusing. Its XNNPACK has no EXP.
    "tflite-runtime-2.14": Target(
        "tflite-runtime-2.14",
        ("int4",),
        dynamic_per_channel=False,
        exp_attention=False,
        versions={
            "ADD": 5,
            "BATCH_MATMUL": 4,
            "CAST": 1,
            "CONCATENATION": 4,
            "DEQUANTIZE": 5,
            "DIV": 2,
            "EXP": 2,
            "FULLY_CONNECTED": 10,
            "GELU": 2,
            "MEAN": 3,
            "MUL": 7,
            "PAD": 4,
            "QUANTIZE": 3,
            "RESHAPE": 1,
            "RSQRT": 2,
            "SOFTMAX": 3,
            "SPACE_TO_DEPTH": 2,
            "STRIDED_SLICE": 8,
            "SUB": 5,
            "SUM": 2,
            "TRANSPOSE": 6,
        },
    ),
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
        target: the runtime.

    Raises:
        VitsdError: it would refuse an operation; names it.
    """
    if target.versions is None:
        return
    for name, version in versions.items():
        newest = target.versions.get(name)
        if version > (newest or 1):
            known = f"it knows up to {newest}" if newest else "not known to work there"
            raise VitsdError(
                f"{target.name} would refuse the file: {name} version {version} ({known}). Use "
                "`target=litert`."
            )
