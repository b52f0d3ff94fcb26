"""Write one model in any format: the graphs that several formats share are built once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx

from vitsd.config import VitConfig
from vitsd_export.data import HeldOutData
from vitsd_export.formats.onnx import to_onnx
from vitsd_export.formats.saved_model import write_saved_model
from vitsd_export.formats.tflite import to_tflite
from vitsd_export.formats.tflite_rewrites import rewrite
from vitsd_export.formats.tflite_schema import fix_batch, operation_versions
from vitsd_export.formats.tflite_targets import check_versions, get_target
from vitsd_export.graph.folding import fold
from vitsd_export.graph.layer_names import kernels
from vitsd_export.graph.masks import bounded_masks
from vitsd_export.graph.module import inference_module
from vitsd_export.graph.options import GraphOptions
from vitsd_export.graph.weights import read_weights
from vitsd_export.options import ExportOptions
from vitsd_export.quantization.candidates import BATCH_SIZE, EngineCandidate
from vitsd_export.quantization.onnx import OnnxQuantizer
from vitsd_export.quantization.recipe import Choices, LayerChoice, QuantizationRecipe
from vitsd_export.quantization.schemes import SCHEMES, Output, Scheme
from vitsd_export.quantization.search import (
    AccuracyBudget,
    Candidate,
    Evaluator,
    PrecisionSearch,
    RangeSearch,
    SearchResult,
    replay,
)
from vitsd_export.quantization.tflite import GROUP_METHODS, TFLiteQuantizer
from vitsd_runtime.errors import UsageError
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.spec import ExportInfo, ModelSpec
from vitsd_runtime.system.files import temporary_folder
from vitsd_runtime.types import AnyArray, Format, Quantization, UInt8Array

_SIMD_WIDTH = 16
"""float32 values in the widest vector register: rows of scores that are no multiple of it are slow
in XNNPACK's softmax."""


@dataclass(frozen=True)
class WrittenArtifact:
    """A file that was written, without its spec."""

    info: ExportInfo
    """What the spec should say about it; without parity figures."""
    search: SearchResult | None = None
    """Of a quantized file."""


class ArtifactWriter:
    """Folds the model once; a context manager, because converters read a temporary SavedModel.

    Args:
        model: Keras model made by :func:`vitsd.build_vit`.
        spec: its spec.
        held_out: needed for searched quantizations; without it, ``dynamic`` is not checked against
            the budget.
        options: how to write; by default as :class:`vitsd_export.options.ExportOptions` says.
        check_shapes: see :func:`vitsd_export.graph.weights.read_weights`.

    Raises:
        UsageError: the recipe among the options is for something else.
        VitsdError: the model does not fit its spec, or has weights that are not finite.
    """

    def __init__(
        self,
        model: Any,
        spec: ModelSpec,
        held_out: HeldOutData | None = None,
        options: ExportOptions | None = None,
        check_shapes: bool = True,
    ) -> None:
        self._spec, self._held_out = spec, held_out
        self._options = options or ExportOptions()
        self._target = get_target(self._options.target)
        self._config = VitConfig.from_spec(spec)
        self._recipe = self._options.load_recipe(self._config.architecture)
        weights = read_weights(model, self._config, check_shapes)
        self._folded = fold(weights, self._config)
        self.layers = {name: kernel.size for name, kernel in kernels(self._folded)}
        """Names of the layers with weights, and how many each has."""
        self._modules: dict[GraphOptions, Any] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> ArtifactWriter:
        self._scratch = self._open.enter_context(temporary_folder())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def write(self, path: Path, output: Output, quantization: Quantization) -> WrittenArtifact:
        """Write a model file, or the folder of a SavedModel, without its spec.

        Args:
            path: where to.
            output: what it is for.
            quantization: one that ``output`` takes.

        Raises:
            vitsd_export.quantization.search.BudgetError: no quantized model meets the budget.
            VitsdError: a converter refused the graph, or the target would refuse the file.
        """
        writers: dict[Output, Callable[[Path, Scheme], WrittenArtifact]] = {
            "saved_model": self._write_saved_model,
            "tflite": self._write_tflite,
            "onnx": self._write_onnx,
            "web": self._write_web,
        }
        return writers[output](path, SCHEMES[quantization])

    def float_tflite(self) -> bytes:
        """The float ``.tflite`` that quantized ones are made from."""
        return to_tflite(self._saved_model(self._tflite_options))

    def _write_saved_model(self, path: Path, scheme: Scheme) -> WrittenArtifact:
        write_saved_model(self._module(GraphOptions()), path)
        return WrittenArtifact(self._info("saved_model", scheme))

    def _write_onnx(self, path: Path, scheme: Scheme) -> WrittenArtifact:
        content, search = self._onnx.SerializeToString(), None
        # onnxruntime quantizes the activations of dynamic layers by the range of the whole batch,
        # so neighbors would change an image's answer.
        invariant = "dynamic" not in scheme.ladders["onnx"]
        if scheme.searched:
            content, search = self._quantize_onnx(scheme, BATCH_SIZE if invariant else 1)
        path.write_bytes(content)
        opset = self._options.opset
        info = self._info("onnx", scheme, batch_invariant=invariant, opset=opset)
        return self._with_recipe("onnx", info, search)

    def _write_tflite(self, path: Path, scheme: Scheme) -> WrittenArtifact:
        search = None
        if scheme.integer_only:
            content, search = self._quantize_integer_only(scheme)
        elif scheme.searched:
            content, search = self._quantize_tflite(scheme)
        else:
            saved_model = self._saved_model(self._tflite_options)
            content = to_tflite(saved_model, float16=scheme.float16_weights)
        content = rewrite(content, self._target.rewritten)
        versions = operation_versions(content)
        check_versions(versions, self._target)
        path.write_bytes(content)
        return self._with_recipe(
            "tflite", self._info("tflite", scheme, operations=versions), search
        )

    def _write_web(self, path: Path, scheme: Scheme) -> WrittenArtifact:
        written = self._write_tflite(path, scheme)
        path.write_bytes(fix_batch(path.read_bytes()))  # LiteRT.js takes no other
        return written

    def _info(self, format: Format, scheme: Scheme, **more: Any) -> ExportInfo:
        return ExportInfo(
            format,
            scheme.name,
            self._options.target_of(format),
            preprocessing_embedded=self._options.preprocesses,
            **more,
        )

    def _with_recipe(
        self, format: Format, info: ExportInfo, search: SearchResult | None
    ) -> WrittenArtifact:
        if search is None or self._held_out is None:
            return WrittenArtifact(info)
        recipe = QuantizationRecipe(
            info.quantization,
            format,
            info.target,
            self._config.architecture,
            search.choices,
            search.measured(),
        )
        calibration_images = len(self._held_out.calibration)
        info = dataclasses.replace(
            info, calibration_images=calibration_images, recipe=recipe.to_dict()
        )
        return WrittenArtifact(info, search)

    def _quantize_tflite(self, scheme: Scheme) -> tuple[bytes, SearchResult | None]:
        calibration = self._calibration()
        quantizer = self._tflite_quantizer(self.float_tflite(), calibration)
        integer_io = self._options.integer_io(scheme.name)
        if self._held_out is None:
            return quantizer.build(self._unchecked(scheme, "tflite"), integer_io), None

        def build(choices: Choices) -> bytes:
            return quantizer.build(choices, integer_io)

        candidate = EngineCandidate("tflite", build, self._inputs(self._held_out.images))
        search = self._search(scheme, candidate, self._held_out)
        return build(search.choices), search

    def _quantize_integer_only(self, scheme: Scheme) -> tuple[bytes, SearchResult]:
        held_out, calibration = self._held_out, self._calibration()
        if held_out is None or calibration is None:
            raise UsageError(f"{scheme.name} needs images to choose ranges on.")
        masks = bounded_masks(calibration, self._folded)
        float_model = to_tflite(self._saved_model(GraphOptions(integer_masks=masks)))
        build = self._tflite_quantizer(float_model, calibration).build_integer
        candidate = EngineCandidate("tflite", build, self._inputs(held_out.images))
        evaluator = self._evaluator(scheme, candidate, held_out)
        if self._recipe is None:
            search = RangeSearch(evaluator, GROUP_METHODS, scheme).run()
        else:
            search = replay(evaluator, self._recipe, list(GROUP_METHODS))
        return build(search.choices), search

    def _quantize_onnx(self, scheme: Scheme, batch_size: int) -> tuple[bytes, SearchResult | None]:
        quantizer = OnnxQuantizer(self._onnx, list(self._layers_of("onnx")), self._calibration())
        if self._held_out is None:
            return quantizer.build(self._unchecked(scheme, "onnx")), None
        inputs = self._inputs(self._held_out.images)
        candidate = EngineCandidate("onnx", quantizer.build, inputs, batch_size)
        search = self._search(scheme, candidate, self._held_out)
        return quantizer.build(search.choices), search

    def _search(
        self, scheme: Scheme, candidate: EngineCandidate, held_out: HeldOutData
    ) -> SearchResult:
        evaluator = self._evaluator(scheme, candidate, held_out)
        layers = self._layers_of(candidate.format)
        if self._recipe is not None:
            return replay(evaluator, self._recipe, list(layers))
        ladder = scheme.ladders[candidate.format]
        return PrecisionSearch(evaluator, layers, scheme, ladder).run()

    def _evaluator(self, scheme: Scheme, candidate: Candidate, held_out: HeldOutData) -> Evaluator:
        budget = AccuracyBudget(self._options.max_drop, scheme.agreement or 0.0)
        return Evaluator(candidate, held_out.labels, held_out.reference, budget)

    def _unchecked(self, scheme: Scheme, format: Format) -> dict[str, LayerChoice]:
        """All layers on the first precision, where there are no images to check a choice on."""
        if scheme.needs_calibration:
            raise UsageError(f"{scheme.name} needs images to choose precisions on.")
        return dict.fromkeys(self._layers_of(format), LayerChoice(scheme.ladders[format][0]))

    def _layers_of(self, format: Format) -> dict[str, int]:
        """The layers that are quantized: of ONNX files the matrices, not the convolutions."""
        shapes = {name: kernel.shape for name, kernel in kernels(self._folded)}
        every = format != "onnx"
        return {n: size for n, size in self.layers.items() if every or len(shapes[n]) == 2}

    def _tflite_quantizer(
        self, float_model: bytes, calibration: AnyArray | None
    ) -> TFLiteQuantizer:
        per_channel = self._target.dynamic_per_channel
        return TFLiteQuantizer(float_model, list(self.layers), calibration, per_channel)

    def _calibration(self) -> AnyArray | None:
        return None if self._held_out is None else self._inputs(self._held_out.calibration)

    def _inputs(self, images: UInt8Array) -> AnyArray:
        embedded = self._options.preprocesses
        return images if embedded else preprocess(images, self._spec)

    @property
    def _tflite_options(self) -> GraphOptions:
        # Also with pooled tokens, of which later blocks have a quarter: one rule for all blocks.
        partly_empty = self._config.tokens % _SIMD_WIDTH != 0
        return GraphOptions(exp_attention=self._target.exp_attention and partly_empty)

    def _module(self, options: GraphOptions) -> Any:
        if options not in self._modules:
            self._modules[options] = inference_module(
                self._folded, self._spec, self._options.preprocesses, options
            )
        return self._modules[options]

    @cached_property
    def _onnx(self) -> onnx.ModelProto:
        return to_onnx(self._module(GraphOptions(flat=True)), self._options.opset)

    def _saved_model(self, options: GraphOptions) -> Path:
        module = self._module(options)
        folder = self._scratch / f"saved_model_{list(self._modules).index(options)}"
        if not folder.exists():
            write_saved_model(module, folder)
        return folder
