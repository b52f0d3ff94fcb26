"""Which runtimes a ``.tflite`` is made for, and the check that its operations exist there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vitsd_runtime.errors import UsageError, VitsdError


@dataclass(frozen=True)
class Target:
    """A runtime that files are made for."""

    name: str
    quantizations: tuple[str, ...]
    """What its kernels can run."""
    dynamic_per_channel: bool
    """Whether it knows one scale per output in layers that quantise their activations at run time."""
    exp_attention: bool
    """Whether :class:`vitsd_export.graph.build.Style`'s form of softmax may be used."""
    versions: Mapping[str, int] | None = None
    """Newest version of each operation that it accepts; None: not limited."""


TARGETS = {
    "litert": Target(
        "litert", ("none", "float16", "dynamic", "int8", "int8-full", "int4"), True, True
    ),
    # Found by loading files with raised version numbers in tflite-runtime 2.14.0. With 4-bit weights it does not refuse but
    # crash. Its XNNPACK has no EXP.
    "tflite-runtime-2.14": Target(
        "tflite-runtime-2.14",
        ("none", "float16", "dynamic", "int8", "int8-full"),
        False,
        False,
        {
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
    """Raises UsageError for an unknown name."""
    if name not in TARGETS:
        raise UsageError(f"Unknown target {name!r}; use {', '.join(TARGETS)}.")
    return TARGETS[name]


def operation_versions(content: bytes) -> dict[str, int]:
    """``{"FULLY_CONNECTED": 12, ...}``: the operations of a ``.tflite`` and their newest version."""
    from ai_edge_litert.tools import flatbuffer_utils

    from vitsd_export.quantization.tflite import operation_name

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    found: dict[str, int] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = operation_name(model, operator)
            found[name] = max(found.get(name, 1), model.operatorCodes[operator.opcodeIndex].version)
    return found


def check_operations(content: bytes, target: Target) -> dict[str, int]:
    """The operations of a ``.tflite``, all of which the target knows.

    Raises:
        VitsdError: the target would refuse an operation; names it.
    """
    found = operation_versions(content)
    if target.versions is not None:
        for name, version in found.items():
            if version > target.versions.get(name, 1):
                newest = target.versions.get(name)
                raise VitsdError(
                    f"{target.name} would refuse the file: {name} version {version} "
                    f"({f'it knows up to {newest}' if newest else 'not known to work there'}). Use --target litert."
                )
    return found
