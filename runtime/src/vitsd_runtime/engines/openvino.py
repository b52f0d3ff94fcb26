"""ONNX files in OpenVINO on the CPU: in float32, or rounded to bfloat16 if that is asked for."""

from __future__ import annotations

import threading
from functools import partial
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

_CAPABILITIES = "OPTIMIZATION_CAPABILITIES"


class _Compiled:
    """The model of one process, compiled for single images and for full batches.

    Compiled for any batch size, a single image takes 1.3 times as long.
    """

    def __init__(self, file: ModelFile, engine: str, num_threads: int, precision: str) -> None:
        self.lock = threading.Lock()  # a request's tensors are shared state
        self._file, self._engine = file, engine
        self._settings = {
            # Where the CPU has bfloat16, OpenVINO would round to it unasked.
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._core = import_optional("openvino").Core()
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", _CAPABILITIES):
            raise VitsdError("This CPU does not compute with bfloat16: use `backend=openvino`.")
        self._content = file.content()
        """Not a path: OpenVINO would map the file into memory, and whoever overwrites it then
        changes the model."""
        self.one_by_one = False
        self._requests: dict[int, Any] = {}
        self.request(1)

    def request(self, batch: int) -> Any:
        """What runs ``batch`` images."""
        if batch not in self._requests:
            try:
                self._requests[batch] = self._compile(batch)
            except RuntimeError as error:
                raise refusal(self._file.model, self._engine, _reason(error)) from error
        return self._requests[batch]

    def _compile(self, batch: int) -> Any:
        model = self._core.read_model(self._content, b"")
        shape = model.input(0).partial_shape
        self.one_by_one = bool(shape[0].is_static)
        if not self.one_by_one:
            shape[0] = batch
            model.reshape(shape)
        return self._core.compile_model(model, "CPU", self._settings).create_infer_request()


class OpenVinoEngine(Engine):
    """OpenVINO; a model is compiled for single images and for full batches."""

    backend: ClassVar[Backend] = "openvino"
    extra = "openvino"
    packages = ("openvino",)
    precision: ClassVar[str] = "f32"

    def __init__(self, model: Model, num_threads: int, batch_size: int) -> None:
        openvino = import_optional("openvino")
        if not openvino:
            raise not_installed(model, self.extra)
        self.name = f"{self.backend} {openvino.__version__.split('-')[0]}"
        self._file = ModelFile(model)
        self._compiled = PerProcess(
            partial(_Compiled, self._file, self.name, num_threads, self.precision)
        )
        compiled = self._compiled.get()
        self._batch_size = 1 if compiled.one_by_one else batch_size
        request = compiled.request(1)
        images, logits = request.model_inputs[0], request.model_outputs[0]
        self.input_shape = tuple(images.shape)[1:]
        self.input_dtype = np.dtype(images.element_type.to_dtype())
        self.num_classes = int(logits.shape[1])

    def run(self, batch: AnyArray) -> Float32Array:
        """See :meth:`Engine.run`."""
        compiled = self._compiled.get()
        with compiled.lock:
            return run_in_parts(batch, self._batch_size, partial(self._invoke, compiled))

    def describe(self) -> dict[str, Any]:
        """See :meth:`Engine.describe`."""
        request = self._compiled.get().request(1)
        return {
            "inputs": [self._describe_tensor(tensor) for tensor in request.model_inputs],
            "outputs": [self._describe_tensor(tensor) for tensor in request.model_outputs],
        }

    def _describe_tensor(self, tensor: Any) -> dict[str, Any]:
        batch = 1 if self._compiled.get().one_by_one else None
        return {
            "name": tensor.any_name,
            "dtype": str(np.dtype(tensor.element_type.to_dtype())),
            "shape": [batch, *list(tensor.shape)[1:]],
        }

    def _invoke(self, compiled: _Compiled, batch: AnyArray) -> Float32Array:
        request = compiled.request(len(batch))
        try:
            request.infer({0: batch})
        except RuntimeError as error:
            raise VitsdError(
                f"{self.name} failed to run {label(self._file.model)}: {first_line(_reason(error))}"
            ) from error
        logits: Float32Array = request.get_output_tensor(0).data.copy()
        return logits


class OpenVinoBf16Engine(OpenVinoEngine):
    """The same, rounded to bfloat16."""

    backend: ClassVar[Backend] = "openvino-bf16"
    precision: ClassVar[str] = "bf16"


def _reason(error: RuntimeError) -> RuntimeError:
    """The last line of OpenVINO's message: those before it name places in its own source."""
    lines = str(error).strip().splitlines()
    return RuntimeError(lines[-1] if lines else "no reason given")
