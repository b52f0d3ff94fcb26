"""Closed vocabularies, and the array types that function signatures are written in."""

from __future__ import annotations

import os
from typing import Any, Literal, Union, get_args

import numpy as np
import numpy.typing as npt

Format = Literal["tflite", "onnx", "saved_model", "keras"]
"""Kinds of model file; ``keras`` is the trained model, the others are exported ones."""
Quantization = Literal["none", "float16", "dynamic", "int8", "int8-full", "int4"]
"""How an exported file is quantized; ``vitsd_export.quantization.schemes`` says what each is."""
Backend = Literal["litert", "onnxruntime", "openvino", "openvino-bf16", "tensorflow"]
"""What runs a model file: the engines of :mod:`vitsd_runtime.engines`. ``openvino-bf16`` rounds to
bfloat16, where the CPU computes with that."""
ResizeMode = Literal["stretch", "crop"]
"""How a photo of any size becomes the model's input size: the whole image, or its center."""
SplitRule = Literal["content", "position"]
"""What decides which images are held out of training, where the data have no such split."""
ClusterEngine = Literal["ray", "spark"]
"""What answers many images on several machines: the modules of :mod:`vitsd_runtime.batch`."""

ValueRange = tuple[float, float]
"""The values of an image that become 0 and 255."""

BACKENDS: tuple[Backend, ...] = get_args(Backend)
FORMATS: tuple[Format, ...] = get_args(Format)
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)
CLUSTER_ENGINES: tuple[ClusterEngine, ...] = get_args(ClusterEngine)
SPLIT_RULES: tuple[SplitRule, ...] = get_args(SplitRule)

PathLike = Union[str, "os.PathLike[str]"]
FloatArray = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]
AnyArray = npt.NDArray[Any]
