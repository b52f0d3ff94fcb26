"""Prove that a model file can be given to an engine, or say why it is refused."""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.spec.limits import MAX_MODEL_BYTES
from vitsd_runtime.structure.graph import Depth, FlawError, Graph, Rule, check_graph, require
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Format, PathLike


def check_structure(
    model: Path | bytes,
    format: Format,
    allow_any_operation: bool = False,
    unsafe_dtypes: Collection[str] = (),
) -> None:
    """Check a ``.tflite`` or ``.onnx`` file from its first byte to the shape of its logits.

    Every offset leads into the file; every operation is one that vitsd-export writes, on tensors
    of shapes and types that it can have; one image goes in, and logits come out; memory and work
    for an image are within :mod:`vitsd_runtime.structure.limits`. Formats that are programs of
    their own (SavedModel) are not looked at.

    Args:
        model: path of a file, or a file's content.
        format: the model's.
        allow_any_operation: let other operations pass, and what they do with memory and time.
        unsafe_dtypes: types of numbers that the engine can't be given.

    Raises:
        VitsdError: the model is refused; says why.
    """
    if format not in ("tflite", "onnx"):
        return
    with _refusals(model), _content(model) as data:
        _check(data, format, allow_any_operation, unsafe_dtypes)


def read_graph(path: PathLike, format: Format, allow_any_operation: bool = False) -> Graph:
    """The operations and tensors of a ``.tflite`` or ``.onnx`` file; not checked any further.

    Raises:
        VitsdError: the file is damaged, or has operations that are not allowed.
    """
    model = Path(path)
    with _refusals(model), _content(model) as data:
        return _read(data, format, allow_any_operation)


@contextlib.contextmanager
def _refusals(model: Path | bytes) -> Iterator[None]:
    """What is wrong with a model, as an error that names it."""
    try:
        yield
    except (FlawError, struct.error) as error:
        flaw = error if isinstance(error, FlawError) else "it is damaged or cut off"
        name = printable(model) if isinstance(model, Path) else "the model"
        raise VitsdError(
            f"{name} is refused: {printable(flaw)}. Copy it again, or export it again."
        ) from error


def _read(data: Any, format: Format, any_operation: bool) -> Graph:
    # Only what this format needs: an import takes as long as half of a check.
    if format == "tflite":
        from vitsd_runtime.structure import tflite

        return tflite.read_tflite(data, any_operation)
    from vitsd_runtime.structure import onnx, onnx_rules

    return onnx.read_onnx(data, tuple(onnx_rules.RULES), any_operation)


def _check(data: Any, format: Format, any_operation: bool, unsafe_dtypes: Collection[str]) -> None:
    graph = _read(data, format, any_operation)
    for tensor in (*graph.constants.values(), *graph.declared.values()):
        require(
            tensor.dtype not in unsafe_dtypes,
            "it has {} weights, at which the installed engine crashes (install a newer one)",
            tensor.dtype,
        )
    if not any_operation:
        check_graph(graph, *_rules(format))


def _rules(format: Format) -> tuple[Mapping[str, Rule], Mapping[str, Depth]]:
    """Of each kind of operation; and of those that are products of matrices."""
    if format == "tflite":
        from vitsd_runtime.structure import tflite_rules

        return tflite_rules.RULES, tflite_rules.PRODUCTS
    from vitsd_runtime.structure import onnx_rules

    return onnx_rules.RULES, onnx_rules.PRODUCTS


@contextlib.contextmanager
def _content(model: Path | bytes) -> Iterator[Any]:
    """The bytes of a model, without reading those that nobody looks at."""
    if isinstance(model, bytes):
        yield model
        return
    with open(model, "rb") as file:
        size = model.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise FlawError(f"it has {size:,} bytes; the limit is {MAX_MODEL_BYTES:,}")
        if size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content
