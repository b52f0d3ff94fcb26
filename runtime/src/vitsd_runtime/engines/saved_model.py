"""SavedModel folders: TensorFlow."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vitsd_runtime.engines.base import (
    Engine,
    Model,
    import_optional,
    model_path,
    not_installed,
    refusal,
)
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats.saved_model import find_saved_model
from vitsd_runtime.system.fork import PerProcess, never_destroy
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.system.text import first_line
from vitsd_runtime.types import AnyArray, Backend, Float32Array


class SavedModelEngine(Engine):
    """TensorFlow, through the ``serving_default`` signature."""

    backend: ClassVar[Backend] = "tensorflow"
    extra = "tensorflow"
    packages = ("tensorflow",)

    def __init__(self, model: Model, num_threads: int, batch_size: int) -> None:
        if not isinstance(model, Path):
            raise UsageError("A SavedModel is a folder: give its path, not its content.")
        self._folder = find_saved_model(model)
        self._tensorflow = _start_tensorflow(model, num_threads)
        self.name = f"tensorflow {self._tensorflow.__version__}"
        try:
            self._loaded = PerProcess(partial(_load, self._tensorflow, self._folder))
            _, function = self._loaded.get()
            (name, tensor), *others = function.structured_input_signature[1].items()
            (self._output_name, output), *_ = function.structured_outputs.items()
        except Exception as error:  # TensorFlow raises many kinds here
            raise refusal(model, self.name, error) from error
        if others:
            raise VitsdError(
                f"{model_path(model)} has {len(others) + 1} inputs; an image classifier has one."
            )
        self._input_name = name
        self.input_shape = _static_shape(model, "input", tensor, rank=4)
        self.input_dtype = np.dtype(tensor.dtype.as_numpy_dtype)
        (self.num_classes,) = _static_shape(model, "output", output, rank=2)

    def run(self, batch: AnyArray) -> Float32Array:
        """See :meth:`Engine.run`."""
        _, function = self._loaded.get()
        images = self._tensorflow.constant(batch)
        try:
            logits: Float32Array = function(**{self._input_name: images})[self._output_name].numpy()
        except self._tensorflow.errors.OpError as error:
            raise VitsdError(f"{self.name} failed to run the model: {first_line(error)}") from error
        return logits

    def describe(self) -> dict[str, Any]:
        """See :meth:`Engine.describe`; also ``version``, the name of the version's folder."""
        _, function = self._loaded.get()
        graph = function.graph.as_graph_def()
        nodes = [
            *graph.node,
            *(node for inner in graph.library.function for node in inner.node_def),
        ]
        signature = function.structured_input_signature[1]
        outputs = function.structured_outputs
        return {
            "inputs": [_describe_tensor(*item) for item in signature.items()],
            "outputs": [_describe_tensor(*item) for item in outputs.items()],
            "operations": dict(collections.Counter(node.op for node in nodes).most_common()),
            "version": self._folder.name,
        }


class _Started:
    """Which process TensorFlow has been started in: it works in no child that is forked later."""

    process: ClassVar[int | None] = None


def _start_tensorflow(model: Path, num_threads: int) -> Any:
    _check_usable()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quiet_stderr():
        tensorflow = import_optional("tensorflow")
        if not tensorflow:
            raise not_installed(model, SavedModelEngine.extra)
        # TensorFlow's threads are a setting of the process, possible only before its first
        # operation.
        with contextlib.suppress(RuntimeError):
            tensorflow.config.threading.set_intra_op_parallelism_threads(num_threads)
        tensorflow.constant(0)  # looks for devices and logs what it finds
    _Started.process = os.getpid()
    return tensorflow


def _load(tensorflow: Any, folder: Path) -> tuple[Any, Any]:
    """The model, which its function needs as long as it is used, and the function."""
    _check_usable()
    loaded = tensorflow.saved_model.load(str(folder))
    return loaded, loaded.signatures["serving_default"]


def _check_usable() -> None:
    """Raise VitsdError in a child of the process that started TensorFlow: it would wait for ever.

    It waits for threads that only the parent has.
    """
    if _Started.process not in (None, os.getpid()):
        raise VitsdError(
            "TensorFlow was started before this process was forked, and does not work in it. Load "
            "SavedModels after forking (gunicorn: without --preload), start processes with "
            '"spawn", or use the .tflite or .onnx export, which may be loaded before.'
        )


def _note_running_tensorflow() -> None:
    """In a new child: whether anybody in the parent has started TensorFlow."""
    # No public function tells without starting it.
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "_context", None)
    if getattr(context, "_context_handle", None) is not None:
        _Started.process = _Started.process or os.getppid()
        never_destroy(context)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_note_running_tensorflow)


def _static_shape(model: Path, name: str, tensor: Any, rank: int) -> tuple[int, ...]:
    """The shape of an input or output without the batch; VitsdError if that can be any."""
    shape, dtype = tensor.shape, tensor.dtype
    if shape.rank != rank or None in shape.as_list()[1:] or dtype.name not in ("float32", "uint8"):
        raise VitsdError(
            f"{model_path(model)} has an {name} {dtype.name} {shape}; images are (batch, height, "
            "width, channels) and logits (batch, classes), of known sizes."
        )
    return tuple(shape.as_list()[1:])


def _describe_tensor(name: str, tensor: Any) -> dict[str, Any]:
    return {"name": name, "dtype": tensor.dtype.name, "shape": tensor.shape.as_list()}
