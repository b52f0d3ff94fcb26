"""``.tflite`` files: every field of the schema, and the offsets and lengths between them."""

from __future__ import annotations

import functools
import struct
from random import Random
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tools.fuzz.mutators import raw
from tools.fuzz.mutators.raw import Span

_LARGE = 64
"""Bytes: a constant above this is weights, whose values do not matter to the structure."""
_OPERATORS = [n for k, n in vars(schema.BuiltinOperator).items() if isinstance(n, int)]
_TYPES = [n for k, n in vars(schema.TensorType).items() if isinstance(n, int)]
_OPTIONS = [n for k, n in vars(schema.BuiltinOptions).items() if isinstance(n, int)]
_CHOICES = {
    "builtinCode": _OPERATORS,
    "deprecatedBuiltinCode": [n for n in _OPERATORS if n < 128],
    "type": _TYPES,
    "builtinOptionsType": _OPTIONS,
}


def mutate(rng: Random, payload: bytes) -> bytes:
    """A flatbuffer whose fields, or whose offsets and lengths, are changed."""
    if rng.random() < 0.6:
        for _ in range(5):  # a number may not fit its field
            try:
                return _change_fields(rng, payload)
            except (TypeError, ValueError, OverflowError, AttributeError, struct.error):
                continue
    return raw.mutate(rng, payload, structure(payload))


@functools.lru_cache
def structure(payload: bytes) -> list[Span]:
    """The parts of the file that are not weights."""
    model = schema.Model.GetRootAs(payload, 0)
    weights = []
    base = np.frombuffer(payload, np.uint8).__array_interface__["data"][0]
    for i in range(model.BuffersLength()):
        data = model.Buffers(i).DataAsNumpy()
        if isinstance(data, np.ndarray) and data.size > _LARGE:
            start = data.__array_interface__["data"][0] - base
            weights.append((start, start + data.size))
    edges = [0, *(edge for span in sorted(weights) for edge in span), len(payload)]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def _change_fields(rng: Random, payload: bytes) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    fields = list(_fields(model))
    # As often a field of each name: else tensors, of which there are most, would be all.
    names = sorted({(type(owner).__name__, name) for owner, name in fields})
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind, name = rng.choice(names)
        owner, _ = rng.choice([f for f in fields if (type(f[0]).__name__, f[1]) == (kind, name)])
        setattr(owner, name, _changed(rng, name, getattr(owner, name)))
    builder = flatbuffers.Builder(len(payload))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _fields(node: Any) -> Any:
    """Every (object, attribute) of the model."""
    for name, value in vars(node).items():
        yield node, name
        for child in value if isinstance(value, list) else (value,):
            if type(child).__module__ == schema.__name__:
                yield from _fields(child)


def _changed(rng: Random, name: str, value: Any) -> Any:
    if name in _CHOICES and rng.random() < 0.7:
        return rng.choice(_CHOICES[name])
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, np.integer)):
        return rng.choice(
            (rng.choice(raw.NUMBERS), int(value) + rng.choice((-1, 1)), int(value) * 2)
        )
    if isinstance(value, (float, np.floating)):
        return rng.choice(raw.FLOATS)
    if isinstance(value, bytes):
        return rng.choice((b"", b"\x1b[31mred\x1b[0m\nnext", value * 100, b"\xff\xfe"))
    if isinstance(value, np.ndarray):
        return _changed_array(rng, value)
    if isinstance(value, list):
        return _changed_list(rng, value)
    return None  # a table that is missing


def _changed_array(rng: Random, array: Any) -> Any:
    if array.size > _LARGE and rng.random() < 0.3:
        return array[: rng.choice((0, 1, array.size // 2, array.size - 1))]
    array = array.copy()
    change = rng.randrange(5)
    if change == 0:
        return np.repeat(array, 2)
    if change == 1:
        return array[: rng.randrange(array.size + 1)]
    if change == 2:
        return np.append(array, np.array([rng.choice(raw.WORDS[:8])]).astype(array.dtype))
    if array.size:
        at = rng.randrange(array.size)
        numbers = raw.FLOATS if array.dtype.kind == "f" else raw.NUMBERS
        with np.errstate(all="ignore"):
            array[at] = np.array(rng.choice(numbers)).astype(array.dtype)
    return array


def _changed_list(rng: Random, values: list[Any]) -> list[Any]:
    values = list(values)
    change = rng.randrange(4)
    if not values or change == 0:
        return []
    at, other = rng.randrange(len(values)), rng.randrange(len(values))
    if change == 1:
        del values[at]
    elif change == 2:
        values[at:at] = [values[other]] * rng.choice((1, 1, 1000))
    else:
        values[at], values[other] = values[other], values[at]
    return values
