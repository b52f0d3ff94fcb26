"""Quantize a float ``.tflite`` dense layer by dense layer, with ai-edge-quantizer.

The float file is a graph of :mod:`vitsd_export.graph`. A dense layer is a FULLY_CONNECTED operation
with constant weights; its name is the scope in which the graph made it.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from vitsd_export.formats.tflite_schema import (
    find_dense_operations,
    fix_quantized,
    read_constants,
)
from vitsd_export.graph.integer_graph import TensorGroup
from vitsd_export.graph.layer_names import scope_of
from vitsd_export.quantization.ranges import (
    MINMAX,
    MSE,
    USUAL_METHODS,
    Distribution,
    RangeMethod,
    collect,
    least_error_limits,
    parse_methods,
)
from vitsd_export.quantization.recipe import Choices
from vitsd_export.quiet import quiet_logger
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.system.text import first_line
from vitsd_runtime.types import AnyArray, Float32Array

_FINE = (*USUAL_METHODS, RangeMethod.parse("p99.9"))
GROUP_METHODS: Mapping[str, Sequence[RangeMethod]] = {
    group.value: methods
    for group, methods in (
        (TensorGroup.FIRST_NORM, parse_methods("minmax mse max/4 max/16 max/64 max/256")),
        (TensorGroup.SECOND_NORM, parse_methods("max*1.25 max*2 max*4 max*16")),
        (TensorGroup.IMAGES, (MINMAX,)),
        # The largest logits decide.
        (TensorGroup.LOGITS, parse_methods("minmax min/2 min/4 mse")),
        (TensorGroup.PATCHES, _FINE),
        (TensorGroup.SCORES, _FINE),
        (TensorGroup.ATTENDED, _FINE),
        (TensorGroup.INVERSE_DEVIATIONS, USUAL_METHODS),
        (TensorGroup.DENSE_OUTPUTS, _FINE),
        (TensorGroup.ACTIVATIONS, _FINE),
        (TensorGroup.RESIDUAL_STREAM, _FINE),
        (TensorGroup.NORMALIZED, _FINE),
        (TensorGroup.INTERMEDIATES, USUAL_METHODS),
    )
}
"""Ways to choose the ranges of integer-only models that a search tries, by group of tensors."""

_GROUPS_BY_SCOPE = {group.scope: group for group in TensorGroup}

Range: TypeAlias = tuple[float, float] | tuple[Float32Array, Float32Array]
"""Smallest and largest value of a tensor, or of each output of a dense layer's weights."""


class TFLiteQuantizer:
    """Makes quantized versions of one float model.

    Args:
        float_model: a ``.tflite`` file's contents.
        layers: the names of its dense layers.
        calibration: inputs ``(n, ...)`` of the model for the ranges of activations; needed for all
            precisions but ``dynamic`` and ``float``.
        dynamic_per_channel: one scale for each output of ``dynamic`` and ``int4`` layers, instead
            of one for all; more accurate, but unknown to old runtimes.
    """

    def __init__(
        self,
        float_model: bytes,
        layers: Sequence[str],
        calibration: AnyArray | None,
        dynamic_per_channel: bool = True,
    ) -> None:
        self.float_model = float_model
        self._calibration, self._dynamic_per_channel = calibration, dynamic_per_channel
        self._dense = find_dense_operations(float_model, layers)
        self._ranges: dict[tuple[str, RangeMethod], Range] = {}

    def build(self, layers: Choices, integer_io: bool = False) -> bytes:
        """The model with its dense layers as chosen, and everything else in float.

        Args:
            layers: the choice for each dense layer.
            integer_io: int8 input and output tensors.

        Raises:
            VitsdError: ai-edge-quantizer refused the graph.
        """
        quantizer = self._quantizer()
        ranges: dict[str, Range] = {}
        for name, choice in layers.items():
            if choice.precision == "static":
                self._add_static(quantizer, ranges, name, choice.method)
            elif choice.precision == "dynamic":
                self._add_dynamic(quantizer, name, bits=8)
            elif choice.precision == "int4":
                # Engines have no int4 convolutions.
                matrix = self._dense[name].kind == "FULLY_CONNECTED"
                self._add_dynamic(quantizer, name, bits=4 if matrix else 8)
                if matrix and choice.method == MSE:
                    weights = self._dense[name].weights
                    ranges[weights] = self._clipped_weights(weights)
            elif choice.precision != "float":
                raise VitsdError(f"TFLite layers can't be {choice.precision} ({name}).")
        if integer_io:
            for end, tensor in zip(("INPUT", "OUTPUT"), self._io_tensors, strict=True):
                quantizer.add_static_config(".*", end, 8, 8)
                ranges.setdefault(tensor, self._range(tensor, MINMAX))
        return self._quantize(quantizer, ranges)

    def build_integer(self, groups: Choices) -> bytes:
        """The model with every operation, its input and its output in int8.

        Args:
            groups: how the ranges of each of :data:`GROUP_METHODS` are chosen.

        Raises:
            VitsdError: ai-edge-quantizer refused the graph, or a tensor is in no group.
        """
        quantizer = self._quantizer()
        quantizer.add_static_config(".*", "*", 8, 8)
        ranges = {
            name: self._range(name, groups[self.tensor_group(name)].method)
            for name in self._all_distributions
        }
        return self._quantize(quantizer, ranges)

    def tensor_group(self, tensor: str) -> str:
        """Which of :data:`GROUP_METHODS` a tensor of an integer graph belongs to.

        Raises:
            VitsdError: to none, so that nobody has decided how its range is found.
        """
        images, logits = self._io_tensors
        ends = {images: TensorGroup.IMAGES, logits: TensorGroup.LOGITS}
        scope = scope_of(tensor)
        if tensor in ends:
            return ends[tensor].value
        if scope in self._dense:
            return TensorGroup.DENSE_OUTPUTS.value
        if scope in _GROUPS_BY_SCOPE:
            return _GROUPS_BY_SCOPE[scope].value
        raise VitsdError(
            f"The converter made a tensor {tensor!r} that is in no group of the integer graph, so "
            "its range can't be chosen. Is this TensorFlow newer than those vitsd-export is "
            "tested with?"
        )

    def _add_static(
        self, quantizer: Any, ranges: dict[str, Range], layer: str, method: RangeMethod
    ) -> None:
        operation = self._dense[layer]
        quantizer.add_static_config(self._pattern(layer), operation.kind, 8, 8)
        for tensor in (operation.inputs, operation.outputs):
            # Layers that share their input, as queries and keys do, share its range: the first's.
            ranges.setdefault(tensor, self._range(tensor, method))

    def _add_dynamic(self, quantizer: Any, layer: str, bits: int) -> None:
        from ai_edge_quantizer.qtyping import QuantGranularity

        granularity = QuantGranularity("CHANNELWISE" if self._dynamic_per_channel else "TENSORWISE")
        pattern = self._pattern(layer)
        quantizer.add_dynamic_config(pattern, self._dense[layer].kind, bits, granularity)

    def _pattern(self, layer: str) -> str:
        return f"^{re.escape(self._dense[layer].outputs)};?$"

    def _range(self, tensor: str, method: RangeMethod) -> Range:
        if (tensor, method) not in self._ranges:
            own = self._distributions
            known = own if tensor in own else self._all_distributions
            self._ranges[tensor, method] = known[tensor].range(method)
        return self._ranges[tensor, method]

    def _clipped_weights(self, tensor: str) -> Range:
        if (tensor, MSE) not in self._ranges:
            weights = read_constants(self.float_model)[tensor]
            rows = weights if self._dynamic_per_channel else weights.reshape(1, -1)
            limits = least_error_limits(rows, bits=4)
            self._ranges[tensor, MSE] = -limits, limits
        return self._ranges[tensor, MSE]

    def _quantizer(self) -> Any:
        """With an empty recipe."""
        self._reader.load_quantization_recipe([])
        return self._reader

    @cached_property
    def _reader(self) -> Any:
        """Has read the float model, once for all that is built from it."""
        from ai_edge_quantizer import quantizer  # takes a second to import

        with _silent():
            return quantizer.Quantizer(self.float_model)

    def _quantize(self, quantizer: Any, ranges: Mapping[str, Range]) -> bytes:
        if not quantizer.get_quantization_recipe():
            return self.float_model
        statistics = {
            name: {
                "min": np.asarray(low, np.float32).reshape(-1, 1),
                "max": np.asarray(high, np.float32).reshape(-1, 1),
            }
            for name, (low, high) in ranges.items()
        }
        try:
            with _silent():
                result = quantizer.quantize(
                    statistics or None, enable_progress_bar=False, enable_progress_report=False
                )
        except (ValueError, RuntimeError) as error:
            raise VitsdError(f"ai-edge-quantizer refused the graph: {first_line(error)}") from error
        return fix_quantized(bytes(result.quantized_model))

    @cached_property
    def _distributions(self) -> dict[str, Distribution]:
        """Of the tensors that dense layers read and write, and of the model's input and output."""
        tensors = {*self._io_tensors}
        for operation in self._dense.values():
            tensors |= {operation.inputs, operation.outputs}
        return self._collect(tensors)

    @cached_property
    def _all_distributions(self) -> dict[str, Distribution]:
        return self._collect(None)

    @cached_property
    def _io_tensors(self) -> tuple[str, str]:
        """Names of the model's input and output."""
        interpreter = Interpreter(model_content=self.float_model)
        ends = (interpreter.get_input_details()[0], interpreter.get_output_details()[0])
        return ends[0]["name"], ends[1]["name"]

    def _collect(self, tensors: set[str] | None) -> dict[str, Distribution]:
        """Distributions of float tensors by name; None: of all that are computed."""
        interpreter = self._observable_interpreter()
        constants = read_constants(self.float_model)
        details = [
            d
            for d in interpreter.get_tensor_details()
            if d["dtype"] == np.float32
            and d["name"] not in constants
            and (tensors is None or d["name"] in tensors)
        ]
        return collect((self._walk(interpreter, details), self._walk(interpreter, details)))

    def _observable_interpreter(self) -> Any:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the memory that this takes
            interpreter = Interpreter(
                model_content=self.float_model, experimental_preserve_all_tensors=True
            )
            interpreter.allocate_tensors()
        return interpreter

    def _walk(
        self, interpreter: Any, details: Sequence[Mapping[str, Any]]
    ) -> Iterator[dict[str, AnyArray]]:
        if self._calibration is None:
            raise VitsdError("Ranges of activations need calibration images.")
        index = interpreter.get_input_details()[0]["index"]
        for image in self._calibration:
            interpreter.set_tensor(index, image[None])
            interpreter.invoke()
            values = {}
            for d in details:
                # Of a tensor that the engine has optimized away there is no value.
                with contextlib.suppress(ValueError):
                    values[d["name"]] = interpreter.get_tensor(d["index"])
            yield values


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hold back what ai-edge-quantizer prints and logs."""
    out, err = io.StringIO(), io.StringIO()
    with quiet_logger("absl"), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
