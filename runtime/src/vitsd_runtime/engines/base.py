"""What every inference engine offers, and how its refusals are explained."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Union

import numpy as np

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.files import identify
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import AnyArray, Backend, Float32Array

Model = Union[Path, bytes]
"""A model file or SavedModel folder, or a file's content."""


class Engine(ABC):
    """An inference engine with one model loaded.

    Args:
        model: path of a file or SavedModel folder, or a file's content.
        num_threads: of the engine.
        batch_size: images that :meth:`run` will usually get at once.

    Raises:
        NotInstalledError: the engine is not installed.
        VitsdError: it refuses the model.
    """

    backend: ClassVar[Backend]
    extra: ClassVar[str]
    """The runtime's extra that installs the engine."""
    packages: ClassVar[Sequence[str]]
    """Python packages, of which the first that is installed runs the model."""
    name: str
    """Package and version."""
    input_shape: tuple[int, ...]
    """Of one image: height, width, channels."""
    input_dtype: np.dtype[Any]
    """Of the model's own input tensor. Float batches are quantized to it if it is quantized."""
    num_classes: int

    @classmethod
    def unsafe_dtypes(cls) -> Sequence[str]:
        """Types of weights at which the version that is installed ends the process."""
        return ()

    @abstractmethod
    def __init__(self, model: Model, num_threads: int, batch_size: int) -> None: ...

    @abstractmethod
    def run(self, batch: AnyArray) -> Float32Array:
        """Logits, float32 ``(n, classes)``, of a batch ``(n, *input_shape)``, ``n >= 1``.

        Raises:
            VitsdError: the engine fails on this model.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is in the model, JSON-serializable.

        ``inputs`` and ``outputs``: lists of ``name``, ``dtype``, ``shape`` (None: any size) and,
        for quantized tensors, ``scale`` and ``zero_point``. Where the engine knows them, also
        ``operations``: how many of each kind.
        """


class ModelFile:
    """A model's file or content, to be opened several times: for batch sizes, after a fork.

    Args:
        model: path of a file, or a file's content.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        if isinstance(model, Path):
            self._path = os.path.abspath(model)  # the current folder may change
            self._identity = identify(self._path)

    def source(self) -> str | bytes:
        """The file's path, or the content.

        Raises:
            VitsdError: the file is another one than at first, which nobody has checked.
        """
        if isinstance(self.model, bytes):
            return self.model
        if identify(self._path) != self._identity:
            raise VitsdError(
                f"{model_path(self.model)} was removed or replaced since it was loaded: load it "
                "again."
            )
        return self._path

    def content(self) -> bytes:
        """The file's content.

        Raises:
            VitsdError: as for :meth:`source`.
        """
        source = self.source()
        return source if isinstance(source, bytes) else Path(source).read_bytes()


def blank_images(engine: Engine, count: int) -> AnyArray:
    """Zeros as the engine takes them, ``(count, *input_shape)``."""
    dtype = np.uint8 if engine.input_dtype == np.uint8 else np.float32
    return np.zeros((count, *engine.input_shape), dtype)


def label(model: Model) -> str:
    """The model's name for messages."""
    return printable(model.name) if isinstance(model, Path) else "the model"


def import_optional(module: str) -> Any:
    """The module, or None if it is not installed.

    Raises:
        VitsdError: it is installed, but broken.
    """
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if missing and missing.split(".")[0] == package:
            return None
        raise VitsdError(
            f"{package} is installed but can't be imported: {first_line(error)}"
        ) from error


_HINTS = (
    (
        # TensorFlow 2.21
        ("Op type not registered",),
        "{engine} can't run {model}: {message} Install a newer TensorFlow.",
    ),
    (
        # ai-edge-litert 2.3, tflite-runtime 2.14
        ("Didn't find op for builtin opcode",),
        "{engine} can't run {model}: {message} The model needs a newer engine: install "
        "ai-edge-litert (64-bit, Python 3.10+), or use the float32 export, which older engines "
        "accept.",
    ),
    (
        # onnxruntime 1.23 to 1.31
        ("opset", "Opset", "ONNX Runtime only *guarantees*", "is not a registered function/op"),
        "{engine} can't run {model}: {message} Install a newer onnxruntime, or export for an "
        "older ONNX operator set (`opset`).",
    ),
    (
        # ai-edge-litert 2.3; onnxruntime 1.23 to 1.31
        ("Flatbuffer", "Protobuf parsing failed", "INVALID_PROTOBUF"),
        "{model} is damaged or cut off ({engine}: {message}). Copy it again.",
    ),
)
"""What the engines' own messages contain (versions seen), and what it means."""


def refusal(model: Model, engine: str, error: Exception) -> VitsdError:
    """The error to raise where ``engine`` refuses to load ``model``."""
    message = first_line(error)
    text = "{engine} can't load {model}: {message}"
    for parts, hint in _HINTS:
        if any(part in message for part in parts):
            text = hint
            break
    return VitsdError(text.format(engine=engine, model=model_path(model), message=message))


def model_path(model: Model) -> str:
    """Where the model is, for messages."""
    return printable(model) if isinstance(model, Path) else "the model"


class NotInstalledError(VitsdError):
    """The engine is not installed; the message says how to install it."""


def not_installed(model: Model, extra: str, hint: str = "") -> NotInstalledError:
    """The error to raise where no engine for ``model`` is installed."""
    return NotInstalledError(
        f'No engine for {label(model)} is installed: pip install "vitsd-runtime[{extra}]"{hint}.'
    )
