"""Untrained models of the presets, exported: latency does not depend on the weights' values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import baselines
from vitsd.config import VitConfig
from vitsd.model.vit import build_vit
from vitsd.presets import get_preset
from vitsd_export.artifact_writer import ArtifactWriter
from vitsd_export.options import artifact_name
from vitsd_export.quantization.recipe import LayerChoice
from vitsd_export.quantization.schemes import SCHEMES
from vitsd_export.quantization.tflite import TFLiteQuantizer
from vitsd_runtime.formats import write_spec
from vitsd_runtime.spec import ExportInfo, ModelSpec
from vitsd_runtime.types import Float32Array, Format, Quantization

Variant = tuple[Format, Quantization]
VARIANTS: tuple[Variant, ...] = (
    ("tflite", "none"),
    ("tflite", "dynamic"),
    ("tflite", "int8"),
    ("tflite", "int4"),
    ("onnx", "none"),
)


def untrained(preset: str, **changes: Any) -> tuple[Any, ModelSpec]:
    """A preset's Keras model with initial weights, and its spec.

    ``changes`` are those of its :class:`VitConfig`.
    """
    keras.utils.set_random_seed(0)
    config = dataclasses.replace(get_preset(preset).config, **changes)
    channels = config.input_size[2]
    spec = ModelSpec(
        name=preset,
        class_names=tuple(str(i) for i in range(config.num_classes)),
        input_size=config.input_size,
        image_size=config.image_size,
        mean=(120.0,) * channels,
        variance=(4000.0,) * channels,
        architecture=config.architecture,
    )
    return build_vit(config), spec


def export_untrained(
    preset: str, folder: Path, variants: Sequence[Variant] = VARIANTS
) -> dict[str, Path]:
    """Files by format and quantization, e.g. ``tflite int8``.

    All layers take their lowest precision: there is no accuracy to keep.
    """
    model, spec = untrained(preset)
    return export_model(model, spec, folder, variants)


def export_model(
    model: Any, spec: ModelSpec, folder: Path, variants: Sequence[Variant]
) -> dict[str, Path]:
    """:func:`export_untrained` for a model that is there already."""
    paths = {}
    with ArtifactWriter(model, spec) as writer:
        for format, quantization in variants:
            path = folder / artifact_name(spec.name, format, quantization)
            if quantization == "none" or format == "onnx":
                info = writer.write(path, format, quantization).info
            else:
                path.write_bytes(_quantize(writer, quantization, _calibration(spec)))
                info = ExportInfo(format, quantization)
            write_spec(path, spec.replace(export=info))
            paths[f"{format} {quantization}"] = path
    return paths


def export_plain(preset: str, folder: Path) -> dict[str, Path]:
    """The plain Keras graph by the converters' own defaults, by name, e.g. ``plain onnx``."""
    model, spec = untrained(preset)
    module = baselines.plain_module(model, VitConfig.from_spec(spec), None)
    contents = {
        "plain tflite": baselines.to_tflite(module),
        "plain tflite dynamic": baselines.to_tflite(module, optimize=True),
        "plain onnx": baselines.to_onnx(module),
    }
    paths = {}
    for name, content in contents.items():
        format: Format = "onnx" if name.endswith("onnx") else "tflite"
        path = folder / f"{preset}-{name.removesuffix(' onnx').replace(' ', '-')}.{format}"
        path.write_bytes(content)
        write_spec(path, spec.replace(export=ExportInfo(format)))
        paths[name] = path
    return paths


def _calibration(spec: ModelSpec) -> Float32Array:
    shape = (16, spec.image_size, spec.image_size, spec.input_size[2])
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _quantize(writer: ArtifactWriter, quantization: Quantization, images: Float32Array) -> bytes:
    lowest = LayerChoice(SCHEMES[quantization].ladders["tflite"][0])
    quantizer = TFLiteQuantizer(writer.float_tflite(), list(writer.layers), images)
    return quantizer.build(dict.fromkeys(writer.layers, lowest))
