"""TFLite files: ai-edge-litert, else tflite-runtime, else TensorFlow's interpreter."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from vitsd_runtime.engines.affine import dequantize, quantize
from vitsd_runtime.engines.base import (
    Engine,
    Model,
    ModelFile,
    NotInstalledError,
    import_optional,
    label,
    not_installed,
    refusal,
)
from vitsd_runtime.engines.fixed_batch import run_in_parts
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.fork import PerProcess
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.system.text import first_line
from vitsd_runtime.types import AnyArray, Backend, Float32Array

_OLD = "tflite-runtime"
_PACKAGES = (
    ("ai_edge_litert.interpreter", "ai_edge_litert", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite_runtime", _OLD),
    ("tensorflow.lite.python.interpreter", "tensorflow", "tensorflow"),
)
"""Module with the interpreter, package with the version, name of the distribution."""
_LARGEST_BATCH = 8
"""More images at once are no faster, even where the cache is large (EPYC, 1 MB a core), and slower
where their activations don't fit into it."""


class _Compiled(NamedTuple):
    """An interpreter for one batch size, with the details of its input and output tensor."""

    interpreter: Any
    input: dict[str, Any]
    output: dict[str, Any]


class _Interpreters:
    """Those of one process."""

    def __init__(self) -> None:
        self.made: list[dict[int, _Compiled]] = []
        """By batch size, one of these for each thread that ran at the same time as others: an
        interpreter's tensors are shared state."""
        self.idle: list[dict[int, _Compiled]] = []
        """Those that no thread uses now."""
        self.content = b""
        """The model. Not a path: TensorFlow Lite would map the file into memory, and whoever
        overwrites it then, as ``cp`` does, ends this process."""


class TFLiteEngine(Engine):
    """An interpreter is compiled for one batch size, so there are at most two.

    One is for single images and one for full batches, of 8 images at most (files made for single
    images, and all under tflite-runtime, run one by one). Threads that run at the same time have
    interpreters of their own, which stay for the next ones.
    """

    backend: ClassVar[Backend] = "litert"
    extra = "tflite"
    packages = tuple(package for _, package, _ in _PACKAGES)

    @classmethod
    def unsafe_dtypes(cls) -> Sequence[str]:
        """See :meth:`Engine.unsafe_dtypes`: tflite-runtime 2.14 overwrites memory at 4 bits."""
        with contextlib.suppress(NotInstalledError):
            _, name = _find_interpreter(b"")
            return ("int4",) if name.startswith(_OLD) else ()
        return ()

    def __init__(self, model: Model, num_threads: int, batch_size: int) -> None:
        self._file = ModelFile(model)
        self._num_threads, self._batch_size = num_threads, min(batch_size, _LARGEST_BATCH)
        self._interpreter_class, self.name = _find_interpreter(model)
        self._interpreters = PerProcess(_Interpreters)
        with self._borrowed() as compiled:
            single = self._interpreter(compiled, 1)
        # Some files can't be compiled for more; and tflite-runtime 2.14 crashes on a Cortex-A76
        # when a model with dynamic layers was resized to four images or more (make arm64).
        if single.input["shape_signature"][0] == 1 or self.name.startswith(_OLD):
            self._batch_size = 1
        self.input_shape = tuple(int(n) for n in single.input["shape"][1:])
        self.input_dtype = np.dtype(single.input["dtype"])
        self.num_classes = int(single.output["shape"][-1])

    def run(self, batch: AnyArray) -> Float32Array:
        """See :meth:`Engine.run`."""
        with self._borrowed() as mine:
            return run_in_parts(batch, self._batch_size, partial(self._invoke, mine))

    def describe(self) -> dict[str, Any]:
        """See :meth:`Engine.describe`; also ``tensor_dtypes``: how many tensors of each type."""
        with self._borrowed() as compiled:
            single = self._interpreter(compiled, 1)
        details = single.interpreter.get_tensor_details()
        dtypes = collections.Counter(_dtype_name(tensor["dtype"]) for tensor in details)
        report: dict[str, Any] = {
            "inputs": [_describe_tensor(single.input)],
            "outputs": [_describe_tensor(single.output)],
            "tensor_dtypes": dict(dtypes.most_common()),
        }
        # No public method of the interpreter lists its operations.
        list_operations = getattr(single.interpreter, "_get_ops_details", None)
        if list_operations is not None:
            operations = collections.Counter(op["op_name"] for op in list_operations())
            operations.pop("DELEGATE", None)
            report["operations"] = dict(operations.most_common())
        return report

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[dict[int, _Compiled]]:
        """Interpreters that no other thread uses meanwhile."""
        # No lock: one that another thread holds during a fork stays locked in the child.
        here = self._interpreters.get()
        try:
            mine = here.idle.pop()
        except IndexError:
            mine = {}
            here.made.append(mine)  # a child must keep those that its parent's threads use
        try:
            yield mine
        finally:
            here.idle.append(mine)

    def _interpreter(self, mine: dict[int, _Compiled], batch: int) -> _Compiled:
        if batch not in mine:
            here = self._interpreters.get()
            here.content = here.content or self._file.content()
            mine[batch] = self._compile(here.content, batch)
        return mine[batch]

    def _compile(self, content: bytes, batch: int) -> _Compiled:
        try:
            with quiet_stderr():  # it reports its delegate
                interpreter = self._interpreter_class(
                    model_content=content, num_threads=self._num_threads
                )
                details = interpreter.get_input_details()[0]
                if details["shape"][0] != batch:
                    shape = (batch, *details["shape"][1:])
                    interpreter.resize_tensor_input(details["index"], shape)
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise refusal(self._file.model, self.name, error) from error
        return _Compiled(
            interpreter, interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        )

    def _invoke(self, mine: dict[int, _Compiled], batch: AnyArray) -> Float32Array:
        interpreter, inputs, outputs = self._interpreter(mine, len(batch))
        scale, zero_point = inputs["quantization"]
        if scale and batch.dtype != inputs["dtype"]:
            batch = quantize(batch, scale, zero_point, inputs["dtype"])
        try:
            interpreter.set_tensor(inputs["index"], batch)
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise VitsdError(
                f"{self.name} failed to run {label(self._file.model)}: {first_line(error)}"
            ) from error
        logits: AnyArray = interpreter.get_tensor(outputs["index"])
        scale, zero_point = outputs["quantization"]
        return dequantize(logits, scale, zero_point) if scale else logits.astype(np.float32)


def _find_interpreter(model: Model) -> tuple[Any, str]:
    """The interpreter's class, and the name and version of its distribution."""
    for module, package, distribution in _PACKAGES:
        found = import_optional(module)
        if found:
            version = getattr(import_optional(package), "__version__", "")
            return found.Interpreter, f"{distribution} {version}".strip()
    hint = ' (on 32-bit Arm or Python 3.9: "vitsd-runtime[tflite-runtime]")'
    raise not_installed(model, TFLiteEngine.extra, hint)


def _describe_tensor(details: dict[str, Any]) -> dict[str, Any]:
    shape = details.get("shape_signature", details["shape"])
    tensor: dict[str, Any] = {
        "name": details["name"],
        "dtype": _dtype_name(details["dtype"]),
        "shape": [None if n < 0 else int(n) for n in shape],
    }
    scale, zero_point = details["quantization"]
    if scale:
        tensor.update(scale=float(scale), zero_point=int(zero_point))
    return tensor


def _dtype_name(dtype: Any) -> str:
    return getattr(dtype, "__name__", str(dtype))
