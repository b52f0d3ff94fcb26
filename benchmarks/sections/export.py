"""Time to convert and to search over a model's size, with fitted exponents."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.models import untrained
from benchmarks.sections import Request, Results, exponent
from vitsd.config import VitConfig
from vitsd_export.artifact_writer import ArtifactWriter
from vitsd_export.formats.onnx import to_onnx
from vitsd_export.graph.folding import fold
from vitsd_export.graph.module import inference_module
from vitsd_export.graph.weights import read_weights
from vitsd_export.quantization.candidates import EngineCandidate
from vitsd_export.quantization.schemes import SCHEMES
from vitsd_export.quantization.search import (
    SENSITIVITY_IMAGES,
    AccuracyBudget,
    Evaluator,
    PrecisionSearch,
)
from vitsd_export.quantization.tflite import TFLiteQuantizer
from vitsd_runtime import preprocess

_PRESETS = ("tiny", "vit-edge", "vit-gap-ds", "vit-small-ds")
_STEPS = ("convert to tflite", "convert to onnx", "search int8")


def run(request: Request) -> Results:
    """Untrained presets: neither conversion nor ranking depends on the weights' values."""
    rows = [_measure(preset) for preset in _PRESETS]
    parameters = [row["parameters"] for row in rows]
    exponents = {step: exponent(parameters, [row[step] for row in rows]) for step in _STEPS}
    figures = [
        [f"{row['preset']}, {step}", f"{row[step]:.1f} s", ""] for row in rows for step in _STEPS
    ]
    growth = [
        [f"{step}: time over parameters", f"exponent {found:.2f}", "at most 1"]
        for step, found in exponents.items()
    ]
    return {"rows": rows, "exponents": exponents, "summary": figures + growth}


def _measure(preset: str) -> dict[str, Any]:
    model, spec = untrained(preset)
    config = VitConfig.from_spec(spec)
    pixels = np.random.default_rng(0).integers(
        0, 256, (SENSITIVITY_IMAGES, *spec.input_size), np.uint8
    )
    inputs = preprocess(pixels, spec)
    with ArtifactWriter(model, spec) as writer:
        float_model, tflite_seconds = _timed(writer.float_tflite)
        layers = writer.layers
    module = inference_module(fold(read_weights(model, config), config), spec)
    _, onnx_seconds = _timed(lambda: to_onnx(module, opset=17))

    def rank() -> list[str]:
        quantizer = TFLiteQuantizer(float_model, list(layers), inputs)
        candidate = EngineCandidate("tflite", quantizer.build, inputs)
        reference = np.zeros((len(inputs), spec.num_classes), np.float32)
        budget = AccuracyBudget(max_drop=0.5, agreement=0.975)
        evaluator = Evaluator(candidate, np.zeros(len(inputs), np.int64), reference, budget)
        scheme = SCHEMES["int8"]
        return PrecisionSearch(evaluator, layers, scheme, scheme.ladders["tflite"]).order

    _, search_seconds = _timed(rank)
    seconds = zip(_STEPS, (tflite_seconds, onnx_seconds, search_seconds), strict=True)
    return {"preset": preset, "parameters": model.count_params(), **dict(seconds)}


def _timed(step: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = step()
    return result, time.perf_counter() - start
