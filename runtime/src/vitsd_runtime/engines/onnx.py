"""ONNX files: onnxruntime on the CPU."""

from __future__ import annotations

import collections
import os
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vitsd_runtime.engines.base import (
    Engine,
    Model,
    ModelFile,
    import_optional,
    label,
    not_installed,
    refusal,
)
from vitsd_runtime.engines.fixed_batch import run_in_parts
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.fork import PerProcess
from vitsd_runtime.system.text import first_line
from vitsd_runtime.types import AnyArray, Backend, Float32Array

_DTYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class OnnxEngine(Engine):
    """onnxruntime; a batch of any size runs at once."""

    backend: ClassVar[Backend] = "onnxruntime"
    extra = "onnx"
    packages = ("onnxruntime",)

    def __init__(self, model: Model, num_threads: int, batch_size: int) -> None:
        onnxruntime = import_onnxruntime()
        if not onnxruntime:
            raise not_installed(model, self.extra)
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._file = ModelFile(model)
        self._session = PerProcess(partial(_start_session, self._file, self.name, num_threads))
        session = self._session.get()
        (images,), (logits,) = session.get_inputs(), session.get_outputs()
        self._input_name = images.name
        self._one_by_one = images.shape[0] == 1
        self.input_shape = tuple(images.shape[1:])
        self.input_dtype = np.dtype(_DTYPES[images.type])
        self.num_classes = logits.shape[1]

    def run(self, batch: AnyArray) -> Float32Array:
        """See :meth:`Engine.run`."""
        if self._one_by_one:
            return run_in_parts(batch, 1, self._run)
        return self._run(batch)

    def describe(self) -> dict[str, Any]:
        """See :meth:`Engine.describe`; also ``opset`` by domain, where onnx is installed."""
        session = self._session.get()
        report: dict[str, Any] = {
            "inputs": [_describe_tensor(tensor) for tensor in session.get_inputs()],
            "outputs": [_describe_tensor(tensor) for tensor in session.get_outputs()],
        }
        onnx = _import_onnx()
        if onnx is None:
            hint = "operations are listed where the onnx package is installed (pip install onnx)"
            return {**report, "note": hint}
        source = self._file.source()
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        model = onnx.load_model_from_string(content)
        operations = collections.Counter(node.op_type for node in model.graph.node)
        return {
            **report,
            "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
            "operations": dict(operations.most_common()),
        }

    def _run(self, batch: AnyArray) -> Float32Array:
        session = self._session.get()
        try:
            logits: Float32Array = session.run(None, {self._input_name: batch})[0]
        except Exception as error:
            raise VitsdError(
                f"{self.name} failed to run {label(self._file.model)}: {first_line(error)}"
            ) from error
        return logits


def import_onnxruntime() -> Any:
    """The package, or None if it is not installed. Every import of it goes through here.

    From 1.29 on it would send usage data to Microsoft, keep an identifier of the device and a
    database in the user's cache folder, and hold up the end of a process for half a minute. Only
    the environment can prevent that, and only before the import. Who sets ORT_DISABLE_TELEMETRY=0
    keeps it.

    Raises:
        VitsdError: it is installed, but broken.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_optional("onnxruntime")


def _start_session(file: ModelFile, engine: str, num_threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    source = file.source()
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise refusal(file.model, engine, error) from error


def _import_onnx() -> Any:
    """The package that tells operations, if it is there and works."""
    try:
        return import_optional("onnx")
    except VitsdError:
        return None


def _describe_tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.type, "shape": tensor.shape}
