"""One small adapter per inference engine; each engine is imported only when a model needs it.

An engine takes a batch ``(n, ...)`` in the model's own terms (float32 preprocessed, or uint8 pixels where preprocessing
is embedded), any ``n >= 1``, and returns float32 logits ``(n, classes)``. All of them may be called from several threads.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from pathlib import Path

import numpy as np

from vitsd_runtime.cli.common import quiet_stderr
from vitsd_runtime.engines.affine import dequantize, quantize
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats.spec_io import check_complete, saved_model_folder


class Engine:
    """What :class:`vitsd_runtime.Classifier` needs of an engine."""

    name: str
    """Package and version."""
    input_shape: tuple[int, ...]
    """Of one image: height, width, channels."""
    input_dtype: np.dtype
    """Of the model's own input tensor; float batches are quantised to it if it is int8 or quantised uint8."""
    num_classes: int | None
    """None where the model does not say."""

    def run(self, batch: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def load_engine(path: Path, kind: str, num_threads: int, batch_size: int) -> Engine:
    """The engine for a model file.

    Raises:
        VitsdError: no engine for this kind of file is installed, or the engine refuses the model.
    """
    return {"tflite": TFLiteEngine, "onnx": OnnxEngine, "saved_model": SavedModelEngine}[kind](
        path, num_threads, batch_size
    )


class TFLiteEngine(Engine):
    """ai-edge-litert, else tflite-runtime, else TensorFlow's interpreter.

    An interpreter is compiled for one batch size, so there are at most two: one for single images and one for full
    batches (files made for single images, and all under tflite-runtime, run one by one). A rest is padded to a full batch,
    or run one by one where that is less work; nothing is recompiled.
    """

    _PACKAGES = (
        ("ai_edge_litert.interpreter", "ai_edge_litert", "ai-edge-litert"),
        ("tflite_runtime.interpreter", "tflite_runtime", "tflite-runtime"),
        ("tensorflow.lite.python.interpreter", "tensorflow", "tensorflow"),
    )

    def __init__(self, path: Path, num_threads: int, batch_size: int):
        self._path, self._num_threads, self._batch_size = path, num_threads, batch_size
        for module, package, distribution in self._PACKAGES:
            interpreter = _optional(module)
            if interpreter:
                self._interpreter_class = interpreter.Interpreter
                self.name = (
                    f"{distribution} {getattr(_optional(package), '__version__', '')}".strip()
                )
                break
        else:
            raise VitsdError(
                f'No engine for {path.name} is installed: pip install "vitsd-runtime[tflite]" '
                '(on 32-bit Arm or Python 3.9: "vitsd-runtime[tflite-runtime]").'
            )
        check_complete(path)  # tflite-runtime would read beyond the end of the file, and crash
        self._lock = threading.Lock()  # an interpreter's tensors are shared state
        self._compiled: dict[int, tuple] = {}
        _, details, outputs = self._interpreter(1)
        # Some files can't be compiled for more; and tflite-runtime 2.14 crashes on a Cortex-A76 when a model with dynamic
        # layers was resized to four images or more (make arm64).
        if details["shape_signature"][0] == 1 or self.name.startswith("tflite-runtime"):
            self._batch_size = 1
        self.input_shape = tuple(int(n) for n in details["shape"][1:])
        self.input_dtype = np.dtype(details["dtype"])
        self.num_classes = int(outputs["shape"][-1])

    def _interpreter(self, batch: int):
        if batch not in self._compiled:
            try:
                with quiet_stderr():  # it reports its delegate
                    interpreter = self._interpreter_class(
                        str(self._path), num_threads=self._num_threads
                    )
                    details = interpreter.get_input_details()[0]
                    if details["shape"][0] != batch:
                        interpreter.resize_tensor_input(
                            details["index"], (batch, *details["shape"][1:])
                        )
                    interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise VitsdError(_refusal(self._path, self.name, error)) from error
            self._compiled[batch] = (
                interpreter,
                interpreter.get_input_details()[0],
                interpreter.get_output_details()[0],
            )
        return self._compiled[batch]

    def run(self, batch: np.ndarray) -> np.ndarray:
        size, count = self._batch_size, len(batch)
        with self._lock:
            parts = [
                self._invoke(batch[i : i + size], size)
                for i in range(0, count - count % size, size)
            ]
            rest = batch[count - count % size :]
            if 2 * len(rest) > size:
                padding = np.zeros((size - len(rest), *rest.shape[1:]), rest.dtype)
                parts.append(self._invoke(np.concatenate([rest, padding]), size)[: len(rest)])
            else:
                parts.extend(self._invoke(rest[i : i + 1], 1) for i in range(len(rest)))
        return np.concatenate(parts)

    def _invoke(self, batch: np.ndarray, size: int) -> np.ndarray:
        interpreter, inputs, outputs = self._interpreter(size)
        scale, zero_point = inputs["quantization"]
        if scale and batch.dtype != inputs["dtype"]:
            batch = quantize(batch, scale, zero_point, inputs["dtype"])
        try:
            interpreter.set_tensor(inputs["index"], batch)
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise VitsdError(f"{self.name} failed to run {self._path.name}: {error}") from error
        logits = interpreter.get_tensor(outputs["index"])
        scale, zero_point = outputs["quantization"]
        return dequantize(logits, scale, zero_point) if scale else logits.astype(np.float32)


_ONNX_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
    "tensor(float16)": np.float16,
}


class OnnxEngine(Engine):
    """onnxruntime on the CPU."""

    def __init__(self, path: Path, num_threads: int, batch_size: int):
        onnxruntime = _optional("onnxruntime")
        if not onnxruntime:
            raise VitsdError(
                f'No engine for {path.name} is installed: pip install "vitsd-runtime[onnx]".'
            )
        self.name = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions share no public base class
            raise VitsdError(_refusal(path, self.name, error)) from error
        inputs, *others = self._session.get_inputs()
        outputs = self._session.get_outputs()[0]
        if others:
            raise VitsdError(f"{path} has {len(others) + 1} inputs; an image classifier has one.")
        self._input_name = inputs.name
        self._fixed_batch = (
            inputs.shape[0] if inputs.shape and isinstance(inputs.shape[0], int) else None
        )
        self.input_shape = tuple(inputs.shape[1:])
        self.input_dtype = np.dtype(_ONNX_DTYPES.get(inputs.type, np.object_))
        self.num_classes = outputs.shape[-1] if outputs.shape else None

    def run(self, batch: np.ndarray) -> np.ndarray:
        if self._fixed_batch == 1:
            return np.concatenate([self._run(batch[i : i + 1]) for i in range(len(batch))])
        return self._run(batch)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        try:
            return self._session.run(None, {self._input_name: batch})[0]
        except Exception as error:
            raise VitsdError(
                f"{self.name} failed to run the model: {str(error).splitlines()[0]}"
            ) from error


class SavedModelEngine(Engine):
    """TensorFlow, through the ``serving_default`` signature."""

    def __init__(self, path: Path, num_threads: int, batch_size: int):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with quiet_stderr():
            tensorflow = _optional("tensorflow")
            if not tensorflow:
                raise VitsdError(
                    f'No engine for {path.name} is installed: pip install "vitsd-runtime[tensorflow]".'
                )
            # TensorFlow's threads are a setting of the process, possible only before its first operation.
            with contextlib.suppress(RuntimeError):
                tensorflow.config.threading.set_intra_op_parallelism_threads(num_threads)
            tensorflow.constant(0)  # looks for devices and logs what it finds
        self.name = f"tensorflow {tensorflow.__version__}"
        self._tensorflow = tensorflow
        try:
            self._model = tensorflow.saved_model.load(str(saved_model_folder(path)))
            self._function = self._model.signatures["serving_default"]
            (name, tensor), *others = self._function.structured_input_signature[1].items()
            (self._output_name, output), *_ = self._function.structured_outputs.items()
        except Exception as error:  # TensorFlow raises many kinds here
            raise VitsdError(_refusal(path, self.name, error)) from error
        if others:
            raise VitsdError(f"{path} has {len(others) + 1} inputs; an image classifier has one.")
        self._input_name = name
        self.input_shape = tuple(tensor.shape[1:])
        self.input_dtype = np.dtype(tensor.dtype.as_numpy_dtype)
        self.num_classes = output.shape[-1]

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._function(**{self._input_name: self._tensorflow.constant(batch)})[
            self._output_name
        ].numpy()


def _optional(module: str):
    """The module, or None if it is not installed. A broken installation is not the same as a missing one."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.split(".")[0] == error.name.split(".")[0]:
            return None
        raise VitsdError(
            f"{module.split('.')[0]} is installed but can't be imported: {error}"
        ) from error
    except ImportError as error:
        raise VitsdError(
            f"{module.split('.')[0]} is installed but can't be imported: {error}"
        ) from error


def _refusal(path: Path, engine: str, error: Exception) -> str:
    message = str(error).strip().split("\n")[0]
    if "Didn't find op for builtin opcode" in message or "Op type not registered" in message:
        return (
            f"{engine} can't run {path.name}: {message} The model needs a newer engine: install ai-edge-litert "
            "(64-bit, Python 3.10+), or use the float32 export, which older engines accept."
        )
    if "opset" in message.lower() or "is not a registered function/op" in message:
        return f"{engine} can't run {path.name}: {message} Install a newer onnxruntime, or export with a lower --opset."
    if (
        "Flatbuffer" in message
        or "Protobuf parsing failed" in message
        or "INVALID_PROTOBUF" in message
    ):
        return f"{path} is damaged or cut off ({engine}: {message}). Copy it again."
    return f"{engine} can't load {path.name}: {message}"
