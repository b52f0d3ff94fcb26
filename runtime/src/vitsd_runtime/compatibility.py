"""Which engines take every operation of a model file.

The tables say what the engines really take: tests hold them against each that is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vitsd_runtime.errors import UsageError
from vitsd_runtime.structure.check import read_graph
from vitsd_runtime.structure.graph import ANY, Graph
from vitsd_runtime.types import Format, PathLike

_ANY = 1_000
"""As a version: the engine looks at none."""

_NEWEST = {
    #                  litert
    #                  |  tflite-runtime-2.14
    #                  |  |  tflite-micro
    #                  |  |  |     ethos-u55, ethos-u65
    #                  |  |  |     |     ethos-u85
    #                  |  |  |     |     |     openvino
    "ADD":            (6, 5, _ANY, _ANY, _ANY, _ANY),
    "BATCH_MATMUL":   (4, 4, _ANY, _ANY, _ANY, _ANY),
    "CAST":           (9, 5, _ANY, 0,    _ANY, _ANY),
    "CONCATENATION":  (7, 4, _ANY, _ANY, _ANY, _ANY),
    "CONV_2D":        (8, 7, _ANY, _ANY, _ANY, _ANY),
    "DEPTHWISE_CONV_2D": (7, 7, _ANY, _ANY, _ANY, _ANY),
    "DEQUANTIZE":     (9, 5, _ANY, 0,    0,    _ANY),
    "DIV":            (2, 2, _ANY, 0,    0,    _ANY),
    "EXP":            (2, 2, _ANY, _ANY, _ANY, _ANY),
    "FULLY_CONNECTED": (14, 10, _ANY, _ANY, _ANY, _ANY),
    "GATHER":         (8, 6, _ANY, 0,    _ANY, _ANY),
    "GELU":           (3, 2, 0,    _ANY, _ANY, _ANY),
    "MEAN":           (3, 3, _ANY, _ANY, _ANY, _ANY),
    "MUL":            (8, 7, _ANY, _ANY, _ANY, _ANY),
    "PAD":            (6, 4, _ANY, _ANY, _ANY, _ANY),
    "QUANTIZE":       (6, 3, _ANY, _ANY, _ANY, _ANY),
    "RESHAPE":        (1, 1, _ANY, _ANY, _ANY, _ANY),
    "RSQRT":          (3, 2, _ANY, _ANY, _ANY, _ANY),
    "SOFTMAX":        (4, 3, _ANY, _ANY, _ANY, _ANY),
    "SPACE_TO_DEPTH": (2, 2, _ANY, 0,    0,    _ANY),
    "SPLIT":          (5, 4, _ANY, _ANY, _ANY, _ANY),
    "STRIDED_SLICE":  (8, 8, _ANY, _ANY, _ANY, _ANY),
    "SUB":            (5, 5, _ANY, _ANY, _ANY, _ANY),
    "SUM":            (2, 2, _ANY, _ANY, _ANY, _ANY),
    "TRANSPOSE":      (9, 6, _ANY, _ANY, _ANY, _ANY),
}  # fmt: skip
"""The newest version of each operation of a ``.tflite`` that engines take; 0: none.

Of LiteRT 2.3 and tflite-runtime 2.14, found by loading files with raised version numbers; of
TensorFlow Lite Micro, which looks at no versions, of October 2026; of Vela 5.2, what it places on
the NPU; of OpenVINO 2026.4."""


class Engine(NamedTuple):
    """What runs, or compiles, model files."""

    title: str
    column: int
    """In the table of operations of a ``.tflite``."""
    opset: int = 0
    """The newest of ONNX; 0: it takes no ``.onnx``."""
    refused: tuple[str, ...] = ()
    """Types of numbers that it has no kernels for."""
    hybrid: bool = True
    """Whether dense layers may have integer weights and float inputs."""


_NONE = -1
ENGINES: Mapping[str, Engine] = {
    "litert": Engine("LiteRT", 0),
    "tflite-runtime-2.14": Engine("tflite-runtime 2.14", 1, refused=("int4",)),
    "tflite-micro": Engine(
        "TensorFlow Lite Micro", 2, refused=("float16", "int4", "uint8"), hybrid=False
    ),
    "ethos-u55": Engine("Ethos-U55, by Vela", 3, refused=("float32", "float16", "int4")),
    "ethos-u65": Engine("Ethos-U65, by Vela", 3, refused=("float32", "float16", "int4")),
    "ethos-u85": Engine("Ethos-U85, by Vela", 4, refused=("float32", "float16", "int4")),
    "onnxruntime-1.12": Engine("onnxruntime 1.12", _NONE, opset=17),
    "openvino": Engine("OpenVINO", 5, opset=_ANY),
}
"""By the names of :attr:`vitsd_runtime.spec.ExportInfo.target`, where files are made for them."""


def newest_versions(engine: str) -> dict[str, int]:
    """The newest version of each operation of a ``.tflite`` that one of :data:`ENGINES` takes."""
    column = ENGINES[engine].column
    return {name: versions[column] for name, versions in _NEWEST.items() if versions[column]}


class Compatibility(NamedTuple):
    """Where a model file runs."""

    objections: dict[str, list[str]]
    """What stands against it in each engine that takes its format, by the engine's name."""
    dimensions: int
    """The most of a tensor; delegates take up to 4."""
    any_batch: bool
    """Whether it takes any number of images at once; delegates want a fixed one."""
    unknown: bool
    """Whether it has operations that vitsd-export does not write, of which no table tells."""


def compatibility(
    path: PathLike, format: Format, allow_any_operation: bool = False
) -> Compatibility:
    """Which engines take every operation of a model.

    Args:
        path: a ``.tflite`` or ``.onnx`` file.
        format: which of them.
        allow_any_operation: read files with operations that vitsd-export does not write, too.

    Raises:
        UsageError: another format, which no tables tell of.
        VitsdError: the file is damaged, or refused for what it has in it.
    """
    if format not in ("tflite", "onnx"):
        raise UsageError(f"`compat` tells of .tflite and .onnx files, not of {format} models.")
    graph = read_graph(path, format, allow_any_operation)
    objections = {
        name: list(dict.fromkeys(_objections(graph, engine, format)))
        for name, engine in ENGINES.items()
        if (engine.column != _NONE if format == "tflite" else engine.opset)
    }
    tensors = (*graph.constants.values(), *graph.declared.values())
    dimensions = max(len(tensor.shape) for tensor in tensors)
    unknown = any(step.kind == ANY for step in graph.operations)
    return Compatibility(objections, dimensions, graph.dynamic_batch, unknown)


def _objections(graph: Graph, engine: Engine, format: Format) -> Iterator[str]:
    if format == "onnx":
        if graph.opset > engine.opset:
            yield f"operator set {graph.opset} (at most {engine.opset})"
        return
    for step in graph.operations:
        newest = _NEWEST.get(step.kind, (0,) * 6)[engine.column]
        if step.version > newest and step.kind != ANY:
            yield f"{step.kind} {step.version} (at most {newest})" if newest else step.kind
    yield from _wrong_types(graph, engine)


def _wrong_types(graph: Graph, engine: Engine) -> Iterator[str]:
    tensors = {**graph.constants, **graph.declared}
    for tensor in tensors.values():
        if tensor.dtype in engine.refused:
            yield f"{tensor.dtype} numbers"
    for step in graph.operations:
        types = {tensors[key].dtype for key in step.inputs[:2] if key is not None}
        if step.kind == "FULLY_CONNECTED" and len(types) > 1 and not engine.hybrid:
            yield "integer weights of float layers"
