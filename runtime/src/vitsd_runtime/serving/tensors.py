"""Tensors of the Open Inference Protocol, to images and from answers; the former are anyone's."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.serving.batching import Scores
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import AnyArray

_DTYPES: dict[str, Any] = {"UINT8": np.uint8, "UINT16": np.uint16, "FP32": np.float32}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Output:
    """A tensor of an answer."""

    datatype: str
    shape: list[int]
    values: list[Any]
    """As JSON has them, flat."""

    def to_bytes(self) -> bytes:
        """As Triton's extension for binary tensors has them."""
        return _PACKERS[self.datatype](self.values)


def _pack_texts(texts: list[str]) -> bytes:
    encoded = [text.encode("utf-8", "backslashreplace") for text in texts]
    return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)


_PACKERS: dict[str, Callable[[list[Any]], bytes]] = {
    "FP32": lambda values: np.array(values, "<f4").tobytes(),
    "BOOL": bytes,
    "BYTES": _pack_texts,
}
OUTPUTS = ("logits", "probabilities", "labels", "known")
"""The first two ``(n, classes)``; the best class of each image; whether the model knows it."""


def outputs(classifier: Classifier, rows: Sequence[Scores]) -> dict[str, Output]:
    """All :data:`OUTPUTS` for at least one image."""
    best = [classifier.top(row.probabilities, 1)[0] for row in rows]
    count = len(rows)
    logits, probabilities = (np.stack(values).ravel().tolist() for values in zip(*rows))
    shape = [count, classifier.spec.num_classes]
    return {
        "logits": Output("FP32", shape, logits),
        "probabilities": Output("FP32", shape, probabilities),
        "labels": Output("BYTES", [count], [prediction.label for prediction in best]),
        "known": Output("BOOL", [count], [prediction.known for prediction in best]),
    }


def images(tensor: Mapping[str, Any], binary: bytes, spec: ModelSpec, max_images: int) -> list[Any]:
    """The images of an input tensor, as :func:`vitsd_runtime.load_image` takes them.

    Args:
        tensor: its JSON.
        binary: what follows the JSON of the request.
        spec: of the model that the images are for.
        max_images: how many are taken.

    Raises:
        ValueError: it holds something else; the message, in one line, says what.
    """
    shape = _shape(tensor.get("shape"))
    if shape[0] > max_images:
        raise ValueError(f"a request may hold {max_images} images")
    content = _content(tensor, binary)
    if tensor.get("datatype") == "BYTES":
        found = list(_unpack(content)) if isinstance(content, bytes) else _decode(content)
        if len(found) != math.prod(shape):
            raise ValueError(f"{len(found)} elements do not fit the shape")
        return found
    return _pixels(tensor, shape, content, spec)


def _content(tensor: Mapping[str, Any], binary: bytes) -> bytes | list[Any]:
    parameters = tensor.get("parameters", {})
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        data = tensor.get("data")
        if not isinstance(data, list) or binary:
            raise ValueError("data must be a list, or binary_data_size say what follows the JSON")
        return data
    if size != len(binary) or isinstance(size, bool):
        raise ValueError(f"binary_data_size is {size!r:.80}, but {len(binary):,} bytes follow")
    return binary


def _shape(shape: Any) -> tuple[int, ...]:
    whole = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)
    if not whole or not 1 <= len(shape) <= 4:
        raise ValueError("shape must be a list of one to four whole numbers from 1")
    return tuple(shape)


def _unpack(binary: bytes) -> Iterator[bytes]:
    """Elements with their length before them."""
    place = 0
    while place < len(binary):
        if place + _LENGTH.size > len(binary):
            raise ValueError("the last element is cut off")
        (length,) = _LENGTH.unpack_from(binary, place)
        place += _LENGTH.size + length
        if place > len(binary):
            raise ValueError("the last element is cut off")
        yield binary[place - length : place]


def _decode(elements: list[Any]) -> list[bytes]:
    try:
        return [base64.b64decode(element, validate=True) for element in elements]
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError("BYTES in JSON must be a flat list of image files in base64") from error


def _pixels(
    tensor: Mapping[str, Any], shape: tuple[int, ...], content: Any, spec: ModelSpec
) -> list[AnyArray]:
    dtype = _DTYPES.get(str(tensor.get("datatype")))
    if dtype is None:
        raise ValueError(f"datatype must be BYTES, {', '.join(_DTYPES)}")
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise ValueError("shape must be (images, height, width, 1 or 3)")
    if isinstance(content, bytes):
        if len(content) != math.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError(f"{len(content):,} bytes do not fit the shape")
        values: AnyArray = np.frombuffer(content, np.dtype(dtype).newbyteorder("<"))
    else:
        values = _numbers(content, math.prod(shape))
    if not spec.value_range:
        values = _in_range(values, dtype)
    return list(values.reshape(shape))


def _numbers(content: list[Any], count: int) -> AnyArray:
    try:
        values = np.array(content, np.float64).ravel()
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError("data must be numbers, flat or nested as the shape says") from error
    if values.size != count:
        raise ValueError(f"{values.size:,} numbers do not fit the shape")
    return values


def _in_range(values: AnyArray, dtype: Any) -> AnyArray:
    """Values as image arrays have them: fractions are rounded, others refused."""
    if values.dtype.kind == "u":
        return values.astype(dtype, copy=False)
    target = np.dtype(np.uint8 if dtype is np.float32 else dtype)
    most = np.iinfo(target).max
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= most):
        raise ValueError(f"pixels must be 0 to {most}")
    return np.rint(values).astype(target)
