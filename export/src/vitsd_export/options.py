"""What an export is asked for: one frozen dataclass that checks itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from vitsd.recipe import TrainingRecipe
from vitsd_export.formats.tflite_targets import TARGET_NAMES, TargetName, get_target
from vitsd_export.layouts import LAYOUTS, Layout, served_name
from vitsd_export.quantization.recipe import QuantizationRecipe, read_recipe
from vitsd_export.quantization.schemes import (
    EXPORT_FORMATS,
    OUTPUTS,
    SCHEMES,
    SEARCHED,
    Output,
    format_of,
    quantizations_of,
)
from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import Architecture
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import QUANTIZATIONS, PathLike, Quantization
from vitsd_runtime.validation import option, optional, options, validate

FORMAT_ALIASES: Mapping[str, Output] = {"tf_saved_model": "saved_model", "litert": "tflite"}
"""Keras' own names of the formats."""
ALL = "all"
"""As a format: all kinds of files."""
OPSETS = range(13, 19)
"""ONNX operator sets that the graph can be written in: Softmax over one axis came with 13, tf2onnx
ends at 18."""
FEWEST_IMAGES = 32
"""With fewer, neither ranges nor accuracy mean anything."""

NO_LAYOUT = "none"

IoType = Literal["float32", "int8"]
LayoutName = Literal["none", "triton", "tfserving", "kserve", "c"]
Artifacts = Sequence[tuple[Output, Quantization]]


@dataclass(frozen=True)
class ExportOptions:
    """Which files to write, and how.

    Raises:
        UsageError: a value is out of its range, or values don't go together.
    """

    format: str | Sequence[str] = "tflite"
    """One or several of ``saved_model``, ``tflite``, ``onnx``, or Keras' names of them; ``all`` of
    these; ``web``, a folder with a page that runs a ``.tflite`` in browsers."""
    quantization: str | Sequence[str] = "none"
    """One or several of :data:`vitsd_runtime.types.QUANTIZATIONS`; a format gets those that it
    takes."""
    embed_preprocessing: bool = option(
        False, "the graph takes uint8 images and normalizes and resizes them"
    )
    layout: str = option(
        NO_LAYOUT,
        "a folder for a model server, with its configuration and with the preprocessing in the "
        "graph, or for a firmware: "
        f"{', '.join(f'{row.name} ({row.help})' for row in LAYOUTS.values())}",
        choices=(NO_LAYOUT, *LAYOUTS),
    )
    io: str = option("float32", "input and output of int8 TFLite", choices=("float32", "int8"))
    # Opset 17 runs in onnxruntime 1.12 and newer; nothing in the graph needs a later one.
    opset: int = option(
        17,
        f"of ONNX, {OPSETS.start} to {OPSETS.stop - 1}",
        at_least=OPSETS.start,
        at_most=OPSETS.stop - 1,
    )
    target: str = option(
        "litert",
        "what .tflite files are made for: a runtime, microcontrollers (tflite-micro) or an NPU",
        choices=TARGET_NAMES,
    )
    arena: int = option(
        0,
        "for tflite-micro: bytes of memory that a microcontroller has for the model; 0: any",
        at_least=0,
        at_most=1 << 30,
    )
    max_drop: float = option(
        0.5,
        "top-1 accuracy, in points, that quantization may cost on validation images; layers that "
        "cost more stay more exact",
        at_least=0,
        at_most=100,
    )
    recipe: PathLike | Mapping[str, Any] | None = None
    """A ``.recipe.json`` of an earlier export, or the recipe in a spec, to be replayed instead of
    a search."""
    litert_js: PathLike | None = None
    """For ``web``: the npm package ``@litertjs/core``, unpacked or as ``.tgz``; by default it is
    downloaded."""
    calibration_images: int = option(
        256,
        "training images that give the ranges of activations",
        at_least=FEWEST_IMAGES,
        at_most=1_000_000,
    )
    coverage: float | None = optional(dict(options(TrainingRecipe))["coverage"])
    """None: as trained."""
    overwrite: bool = option(False, "replace files that are there")
    keep_failing: bool = option(False, "keep files that fail the parity gate")

    def __post_init__(self) -> None:
        """Check each option and how they fit together."""
        validate(self)
        artifacts = self.artifacts
        self._check_io(artifacts)
        self._check_embedding(artifacts)
        self._check_target(artifacts)
        self._check_recipe(artifacts)
        self._check_web(artifacts)
        self._check_layout(artifacts)

    @property
    def preprocesses(self) -> bool:
        """Whether the graph takes pixels and preprocesses them."""
        layout = self.served_by
        return self.embed_preprocessing or (layout is not None and not layout.firmware)

    @property
    def served_by(self) -> Layout | None:
        """The layout, if there is one."""
        return LAYOUTS.get(self.layout)

    @property
    def artifacts(self) -> Artifacts:
        """The combinations of format and quantization that exist, in order.

        Raises:
            UsageError: an unknown name, or one that would be left out altogether.
        """
        formats, quantizations = self._formats(), self._quantizations()
        pairs = list(_combinations(formats, quantizations))
        for name in quantizations:
            if not any(quantization == name for _, quantization in pairs):
                raise UsageError(
                    f"None of {', '.join(formats)} can be quantized as {printable(name)}."
                )
        return pairs

    @property
    def searched(self) -> list[Quantization]:
        """The quantizations asked for that are searched within a budget."""
        return [q for _, q in self.artifacts if SCHEMES[q].searched]

    def integer_io(self, quantization: Quantization) -> bool:
        """Whether TFLite files of this quantization take int8 inputs and give int8 outputs."""
        return self.io == "int8" and SCHEMES[quantization].optional_integer_io

    def load_recipe(self, architecture: Architecture) -> QuantizationRecipe | None:
        """The recipe to be replayed, for a model of this architecture.

        Raises:
            UsageError: it can't be read, or is for something else.
        """
        if self.recipe is None:
            return None
        ((output, quantization),) = self.artifacts
        recipe = read_recipe(self.recipe)
        format = format_of(output)
        recipe.check(quantization, format, self.target_of(format), architecture)
        return recipe

    def target_of(self, output: Output) -> str:
        """The runtime that a model file is made for."""
        return {"onnx": "onnxruntime", "saved_model": "tensorflow"}.get(output, self.target)

    def _formats(self) -> list[Output]:
        formats: list[Output] = []
        for name in _as_list(self.format):
            name = FORMAT_ALIASES.get(name, name)
            if name != ALL and name not in OUTPUTS:
                known = ", ".join([*OUTPUTS, *FORMAT_ALIASES, ALL])
                raise UsageError(f"Unknown format {name!r}; use {known}.")
            formats += EXPORT_FORMATS if name == ALL else [cast(Output, name)]
        return list(dict.fromkeys(formats))

    def _quantizations(self) -> list[Quantization]:
        names = _as_list(self.quantization)
        if unknown := [name for name in names if name not in QUANTIZATIONS]:
            known = ", ".join(QUANTIZATIONS)
            raise UsageError(f"Unknown quantization {unknown[0]!r}; use {known}.")
        return [cast(Quantization, name) for name in dict.fromkeys(names)]

    def _check_io(self, artifacts: Artifacts) -> None:
        if self.io != "int8":
            return
        if not any(f == "tflite" and SCHEMES[q].optional_integer_io for f, q in artifacts):
            raise UsageError(
                "`io=int8` needs `format=tflite` and `quantization=int8` (int8-full has int8 "
                "input and output anyway)."
            )
        if self.embed_preprocessing:
            raise UsageError(
                "A graph with embedded preprocessing takes uint8 pixels: leave out `io=int8`."
            )

    def _check_embedding(self, artifacts: Artifacts) -> None:
        integer = [q for _, q in artifacts if SCHEMES[q].integer_only]
        if self.embed_preprocessing and integer:
            raise UsageError(
                f"An {integer[0]} graph takes int8 inputs, so it can't embed the preprocessing of "
                "uint8 pixels."
            )

    def _check_target(self, artifacts: Artifacts) -> None:
        excluded = get_target(self.target).excluded
        if refused := [q for f, q in artifacts if f == "tflite" and q in excluded]:
            known = [q for q in quantizations_of("tflite") if q not in excluded]
            raise UsageError(
                f"`target={self.target}` takes `quantization` {', '.join(known)}; got {refused[0]}."
            )
        if self.target != "litert" and not {f for f, _ in artifacts} & {"tflite", "web"}:
            raise UsageError(f"`target={self.target}` is for `format=tflite`.")
        if self.arena and self.target != "tflite-micro":
            raise UsageError("`arena` is for `target=tflite-micro`.")

    def _check_recipe(self, artifacts: Artifacts) -> None:
        (_, quantization), *others = artifacts
        if self.recipe is not None and (others or quantization not in SEARCHED):
            raise UsageError(
                f"`recipe` needs a single `format` and one `quantization` of {', '.join(SEARCHED)}."
            )

    def _check_web(self, artifacts: Artifacts) -> None:
        if not any(output == "web" for output, _ in artifacts):
            if self.litert_js is not None:
                raise UsageError("`litert_js` is for `format=web`.")
        elif self.target != "litert" or self.io != "float32":
            raise UsageError(
                "For `format=web`, leave out `target` and `io`: browsers run LiteRT.js, which "
                "takes float32 inputs."
            )

    def _check_layout(self, artifacts: Artifacts) -> None:
        if self.served_by is None:
            return
        taken = self.served_by.formats
        given = {output for output, _ in artifacts}
        if len(given) > 1 or not given.issubset(taken):
            raise UsageError(
                f"`layout={self.layout}` takes `format={taken[0]}`"
                + "".join(f" or `format={format}`" for format in taken[1:])
                + f", one at a time; got {', '.join(sorted(given))}."
            )
        if self.served_by.firmware != (self.target == "tflite-micro"):
            raise UsageError(
                "`layout=c` needs `target=tflite-micro` and `quantization=int8-full`."
                if self.served_by.firmware
                else f"`layout={self.layout}` is for servers: leave out `target`."
            )


class ExportKeywords(TypedDict, total=False):
    """The options of :class:`ExportOptions` that :func:`vitsd_export.export` takes by name."""

    embed_preprocessing: bool
    layout: LayoutName
    io: IoType
    opset: int
    target: TargetName
    arena: int
    max_drop: float
    recipe: PathLike | Mapping[str, Any] | None
    litert_js: PathLike | None
    calibration_images: int
    coverage: float | None
    overwrite: bool
    keep_failing: bool


def output_paths(
    options: ExportOptions, name: str, folder: Path
) -> dict[tuple[Output, Quantization], Path]:
    """Where each file goes, or each folder."""
    return {
        (output, quantization): folder
        / (
            artifact_name(name, output, quantization)
            if options.served_by is None
            else served_name(name if quantization == "none" else f"{name}-{quantization}")
        )
        for output, quantization in options.artifacts
    }


def artifact_name(name: str, output: Output, quantization: Quantization) -> str:
    """``NAME-int8.tflite``, ``NAME.onnx``, ``NAME_saved_model``, ``NAME-int8-web`` ..."""
    if output == "saved_model":
        return f"{name}_saved_model"
    if output == "onnx":
        return f"{name}.onnx" if quantization == "none" else f"{name}-{quantization}.onnx"
    stem = f"{name}-{'float32' if quantization == 'none' else quantization}"
    return f"{stem}-web" if output == "web" else f"{stem}.tflite"


def sidecar_paths(path: Path) -> tuple[Path, Path]:
    """Where the recipe and the picture of a quantized file go."""
    recipe = path.with_name(f"{path.name}.recipe.json")
    return recipe, path.with_name(f"{path.name}.sensitivity.png")


def compiled_path(path: Path, accelerator: str) -> Path:
    """Where what is compiled for an NPU goes."""
    return path.with_name(f"{path.stem}.{accelerator}.tflite")


def _combinations(
    formats: Sequence[Output], quantizations: Sequence[Quantization]
) -> Iterator[tuple[Output, Quantization]]:
    for format in formats:
        taken = [q for q in quantizations if SCHEMES[q].fits(format)]
        if not taken:
            raise UsageError(
                f"{format} can't be quantized as {', '.join(quantizations)}; it takes "
                f"{', '.join(quantizations_of(format))}."
            )
        for quantization in taken:
            yield format, quantization


def _as_list(value: str | Sequence[str]) -> list[str]:
    names = [value] if isinstance(value, str) else list(value)
    if not names:
        raise UsageError("Give at least one `format` and one `quantization`.")
    return names
