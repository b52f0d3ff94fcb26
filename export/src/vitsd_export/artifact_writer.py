"""Write one model in any format: the graphs that several formats share are built once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from vitsd.config import VitConfig
from vitsd_export.exporter import DEFAULT_OPSET
from vitsd_export.formats import converters
from vitsd_export.formats.tflite_targets import check_operations, get_target
from vitsd_export.graph.build import Style, bounded_masks, dense_layers, inference_module
from vitsd_export.graph.folding import fold
from vitsd_export.graph.weights import read_weights
from vitsd_export.quantization import search as budget
from vitsd_export.quantization.onnx import OnnxQuantizer, run_onnx
from vitsd_export.quantization.recipe import LayerChoice, QuantizationRecipe
from vitsd_export.quantization.tflite import TENSOR_GROUPS, TFLiteQuantizer, run_tflite
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.cores import physical_cores

_SIMD_WIDTH = 16
"""float32 values in the widest vector register: rows of scores that are no multiple of it are slow in XNNPACK's softmax."""


@dataclass(frozen=True)
class Evidence:
    """Images that quantisation is decided on; neither trained nor tested on, but for ``calibration``."""

    calibration: np.ndarray
    """uint8 training images ``(n, *input_size)``: ranges of activations."""
    images: np.ndarray
    """uint8 held-out images: the budget."""
    labels: np.ndarray
    reference: np.ndarray
    """float32 logits of the Keras model for ``images``."""


@dataclass
class Options:
    """As for :func:`vitsd_export.export`."""

    embed_preprocessing: bool = False
    integer_io: bool = False
    opset: int = DEFAULT_OPSET
    target: str = "litert"
    max_drop: float = 0.005
    """A fraction."""
    recipe: QuantizationRecipe | None = None
    report: Callable[[str], None] = field(default=lambda message: None)


class Writer:
    """Folds the model once; a context manager, because the TFLite converter reads a temporary SavedModel.

    Args:
        model: Keras model made by :func:`vitsd.build_vit`.
        spec: its spec.
        evidence: needed for the quantisations in :data:`vitsd_export.exporter.BUDGETED`, but for ``dynamic``, which
            without it is not checked against the budget.
        options: how to write.
    """

    def __init__(
        self,
        model,
        spec: ModelSpec,
        evidence: Evidence | None = None,
        options: Options | None = None,
    ):
        self._spec, self._evidence, self._options = spec, evidence, options or Options()
        self._target = get_target(self._options.target)
        self._config = VitConfig.from_spec(spec)
        self._folded = fold(read_weights(model, self._config), self._config)
        self.layers = {name: kernel.size for name, kernel in dense_layers(self._folded)}
        """Names of the dense layers, and how many weights each has."""
        self._modules: dict[Style, object] = {}

    def __enter__(self):
        self._scratch = tempfile.TemporaryDirectory(prefix="vitsd-export-")
        return self

    def __exit__(self, *exception):
        self._scratch.cleanup()

    def write(self, path: Path, kind: str, quantization: str) -> tuple[dict, budget.Found | None]:
        """Write to ``path``.

        Returns:
            What the spec's ``export`` should say, and what the search of a quantisation found.

        Raises:
            vitsd_export.quantization.search.BudgetError: no quantised model meets the budget.
            VitsdError: a converter refused the graph, or the target would refuse the file.
        """
        info = {
            "format": kind,
            "quantization": quantization,
            "target": {
                "saved_model": "tensorflow",
                "tflite": self._target.name,
                "onnx": "onnxruntime",
            }[kind],
            "preprocessing_embedded": self._options.embed_preprocessing,
            # onnxruntime quantises activations by the range of the whole batch, so neighbours change an image's answer.
            "batch_invariant": not (kind == "onnx" and quantization == "dynamic"),
        }
        found = None
        if kind == "saved_model":
            converters.write_saved_model(self._module(Style()), path)
        elif kind == "onnx":
            info["opset"] = self._options.opset
            content, found = self._onnx_content(quantization)
            path.write_bytes(content)
        else:
            content, found = self._tflite(quantization)
            info["operations"] = check_operations(content, self._target)
            path.write_bytes(content)
        if found:
            info["calibration_images"] = len(self._evidence.calibration)
            recipe = QuantizationRecipe(
                quantization,
                kind,
                info["target"],
                self._spec.architecture.to_dict(),
                found.choices,
                found.measured(),
            )
            info["recipe"] = recipe.to_dict()
        return info, found

    def float_tflite(self) -> bytes:
        """The float ``.tflite`` that quantised ones are made from."""
        return converters.to_tflite(self._saved_model(self._tflite_style))

    def _integer_tflite(self, inputs: np.ndarray) -> bytes:
        return converters.to_tflite(
            self._saved_model(Style(integer_masks=bounded_masks(inputs, self._folded)))
        )

    def _tflite(self, quantization: str) -> tuple[bytes, budget.Found | None]:
        if quantization in ("none", "float16"):
            return converters.to_tflite(
                self._saved_model(self._tflite_style), quantization == "float16"
            ), None
        if self._evidence is None:
            quantizer = TFLiteQuantizer(
                self.float_tflite(), list(self.layers), None, self._target.dynamic_per_channel
            )
            return quantizer.build(self._all_dynamic), None
        inputs = self._inputs(self._evidence.calibration)
        float_model = (
            self._integer_tflite(inputs) if quantization == "int8-full" else self.float_tflite()
        )
        quantizer = TFLiteQuantizer(
            float_model, list(self.layers), inputs, self._target.dynamic_per_channel
        )
        if quantization == "int8-full":
            build, layers = (
                quantizer.build_integer,
                {name: methods for name, (_, methods) in TENSOR_GROUPS.items()},
            )
        else:
            layers = self.layers

            def build(choices):
                return quantizer.build(choices, self._options.integer_io and quantization == "int8")

        held_out, threads = self._inputs(self._evidence.images), physical_cores()

        def run(choices: Mapping[str, LayerChoice], count: int) -> np.ndarray:
            return run_tflite(build(choices), held_out[:count], threads)

        found = self._find("tflite", quantization, layers, run)
        return build(found.choices), found

    def _onnx_content(self, quantization: str) -> tuple[bytes, budget.Found | None]:
        if quantization == "none":
            return self._onnx.SerializeToString(), None
        if self._evidence is None:
            return OnnxQuantizer(self._onnx, list(self.layers), None).build(self._all_dynamic), None
        quantizer = OnnxQuantizer(
            self._onnx, list(self.layers), self._inputs(self._evidence.calibration)
        )
        held_out, threads = self._inputs(self._evidence.images), physical_cores()
        batch_size = 1 if quantization == "dynamic" else 32  # see batch_invariant above

        def run(choices: Mapping[str, LayerChoice], count: int) -> np.ndarray:
            return run_onnx(quantizer.build(choices), held_out[:count], threads, batch_size)

        found = self._find("onnx", quantization, self.layers, run)
        return quantizer.build(found.choices), found

    @property
    def _all_dynamic(self) -> dict[str, LayerChoice]:
        return dict.fromkeys(self.layers, LayerChoice("dynamic"))

    def _find(self, kind: str, quantization: str, layers: Mapping, run: budget.Run) -> budget.Found:
        evidence, options = self._evidence, self._options
        labels, reference = evidence.labels, evidence.reference
        goal = budget.Goal(options.max_drop, budget.AGREEMENT[quantization])
        if options.recipe:
            return budget.replay(run, options.recipe, list(layers), labels, reference, goal)
        if quantization == "int8-full":
            return budget.search_methods(run, layers, labels, reference, goal, options.report)
        ladder = (budget.ONNX_LADDERS if kind == "onnx" else budget.LADDERS)[quantization]
        return budget.search(
            run, layers, quantization, ladder, labels, reference, goal, options.report
        )

    def _inputs(self, images: np.ndarray) -> np.ndarray:
        return images if self._options.embed_preprocessing else preprocess(images, self._spec)

    @property
    def _tflite_style(self) -> Style:
        return Style(
            exp_attention=self._target.exp_attention and self._config.tokens % _SIMD_WIDTH != 0
        )

    def _module(self, style: Style):
        if style not in self._modules:
            self._modules[style] = inference_module(
                self._folded, self._spec, self._options.embed_preprocessing, style
            )
        return self._modules[style]

    @cached_property
    def _onnx(self) -> onnx.ModelProto:
        return converters.to_onnx(self._module(Style(exp_attention=True)), self._options.opset)

    def _saved_model(self, style: Style) -> Path:
        module = self._module(style)
        folder = Path(self._scratch.name) / f"saved_model_{list(self._modules).index(style)}"
        if not folder.exists():
            converters.write_saved_model(module, folder)
        return folder
