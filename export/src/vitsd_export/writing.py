"""Write one model in any format: the graphs that several formats share are built once."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf

from vitsd.config import VitConfig
from vitsd_export import converters
from vitsd_export.exporting import DEFAULT_OPSET
from vitsd_export.folding import fold
from vitsd_export.graph import inference_module
from vitsd_export.weights import read_weights
from vitsd_runtime.preprocessing import preprocess
from vitsd_runtime.spec import ModelSpec

_TARGETS = {"saved_model": "tensorflow", "tflite": "litert", "onnx": "onnxruntime"}


class Writer:
    """Folds the model once; a context manager, because the TFLite converter reads a temporary SavedModel.

    Args:
        model: Keras model made by :func:`vitsd.build_vit`.
        spec: its spec.
        calibration: uint8 training images ``(n, *input_size)``; needed for ``int8``.
        embed_preprocessing, integer_io, opset: as for :func:`vitsd_export.export`.
    """

    def __init__(
        self,
        model,
        spec: ModelSpec,
        calibration: np.ndarray | None = None,
        embed_preprocessing: bool = False,
        integer_io: bool = False,
        opset: int = DEFAULT_OPSET,
    ):
        self._spec, self._calibration = spec, calibration
        self._embed_preprocessing, self._integer_io = embed_preprocessing, integer_io
        self._opset = opset
        self._config = VitConfig.from_dict(spec.architecture)
        self._folded = fold(read_weights(model, self._config), self._config)

    def __enter__(self):
        self._scratch = tempfile.TemporaryDirectory(prefix="vitsd-export-")
        return self

    def __exit__(self, *exception):
        self._scratch.cleanup()

    def write(self, path: Path, kind: str, quantization: str) -> dict:
        """Write to ``path``; returns what the spec's ``export`` should say."""
        info = {
            "format": kind,
            "quantization": quantization,
            "target": _TARGETS[kind],
            "preprocessing_embedded": self._embed_preprocessing,
            # onnxruntime quantises activations by the range of the whole batch, so neighbours change an image's answer.
            "batch_invariant": not (kind == "onnx" and quantization == "dynamic"),
        }
        if kind == "saved_model":
            converters.write_saved_model(self._module, path)
        elif kind == "onnx":
            info["opset"] = self._opset
            converters.write_onnx(self._onnx, path, quantization)
        else:
            inputs = None
            if quantization == "int8":
                info["calibration_images"] = len(self._calibration)
                inputs = self._calibration if self._embed_preprocessing else preprocess(self._calibration, self._spec)
            converters.write_tflite(
                self._saved_model, path, quantization, inputs, self._integer_io and quantization == "int8"
            )
        return info

    @cached_property
    def _module(self) -> tf.Module:
        return inference_module(self._folded, self._spec, self._embed_preprocessing)

    @cached_property
    def _onnx(self) -> onnx.ModelProto:
        return converters.to_onnx(self._module, self._opset)

    @cached_property
    def _saved_model(self) -> Path:
        folder = Path(self._scratch.name) / "saved_model"
        converters.write_saved_model(self._module, folder)
        return folder
