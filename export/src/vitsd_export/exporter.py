"""Export a trained model: fold, convert, quantise, and let each file pass the parity gate before it is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitsd_export.formats.tflite_targets import get_target
from vitsd_export.quantization.recipe import read_recipe
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import write_spec
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.files import atomic_write, check_writable, write_text
from vitsd_runtime.system.signals import check_interrupted

if TYPE_CHECKING:
    from vitsd_export.gate import Comparison
    from vitsd_export.quantization.search import Found

QUANTIZATIONS = {
    "saved_model": ("none",),
    "tflite": ("none", "float16", "dynamic", "int8", "int8-full", "int4"),
    "onnx": ("none", "dynamic", "int8"),
}
BUDGETED = ("dynamic", "int8", "int8-full", "int4")
"""Quantisations that are searched within an accuracy budget."""
ALIASES = {"tf_saved_model": "saved_model", "litert": "tflite"}
"""Keras' own names of the formats."""
OPSETS = range(13, 19)
"""ONNX operator sets that the graph can be written in: Softmax over one axis came with 13, tf2onnx ends at 18."""
DEFAULT_OPSET = 17
"""Runs in onnxruntime 1.12 and newer; nothing in the graph needs a later one."""
CALIBRATION_IMAGES = 256
HELD_OUT_IMAGES = 2000
FEWEST_IMAGES = 32
"""With fewer, neither ranges nor accuracy mean anything."""
PARITY_IMAGES = 1000


@dataclass(frozen=True)
class Artifact:
    """An exported model and what the parity gate found."""

    path: Path
    spec: ModelSpec
    """As carried by the file; ``spec.export`` says format, quantisation and parity figures."""
    comparison: Comparison
    found: Found | None = None
    """What was searched, for a quantised file."""


def plan(
    formats: Sequence[str], quantize: Sequence[str], name: str, output: Path
) -> dict[tuple[str, str], Path]:
    """Where each (format, quantisation) goes, for the combinations that exist.

    Raises:
        UsageError: an unknown name, or a format or quantisation that would be left out altogether.
    """
    chosen: list[str] = []
    for item in formats:
        item = ALIASES.get(item, item)
        if item != "all" and item not in QUANTIZATIONS:
            if item.endswith(".keras"):
                raise UsageError(f"{item} was taken for a format: put the model before --format.")
            raise UsageError(
                f"Unknown format {item!r}; use {', '.join([*QUANTIZATIONS, *ALIASES, 'all'])}."
            )
        chosen += QUANTIZATIONS if item == "all" else [item]
    chosen = list(dict.fromkeys(chosen))
    known = QUANTIZATIONS["tflite"]
    if unknown := [q for q in quantize if q not in known]:
        if unknown[0].endswith(".keras"):
            raise UsageError(
                f"{unknown[0]} was taken for a quantisation: put the model before --quantize."
            )
        raise UsageError(f"Unknown quantisation {unknown[0]!r}; use {', '.join(known)}.")
    targets = {}
    for kind in chosen:
        possible = [q for q in dict.fromkeys(quantize) if q in QUANTIZATIONS[kind]]
        if not possible:
            raise UsageError(
                f"{kind} can't be quantised as {', '.join(quantize)}; it takes {', '.join(QUANTIZATIONS[kind])}."
            )
        for quantization in possible:
            targets[kind, quantization] = output / artifact_name(name, kind, quantization)
    for quantization in quantize:
        if not any(q == quantization for _, q in targets):
            raise UsageError(f"None of {', '.join(chosen)} can be quantised as {quantization}.")
    return targets


def artifact_name(name: str, kind: str, quantization: str) -> str:
    """``NAME-int8.tflite``, ``NAME.onnx``, ``NAME_saved_model`` ..."""
    if kind == "saved_model":
        return f"{name}_saved_model"
    if kind == "onnx":
        return f"{name}.onnx" if quantization == "none" else f"{name}-{quantization}.onnx"
    return f"{name}-{'float32' if quantization == 'none' else quantization}.tflite"


def export(
    model: str | os.PathLike | None = None,
    format: str | Sequence[str] = "tflite",
    quantize: str | Sequence[str] = "none",
    output: str | os.PathLike | None = None,
    data: str | None = None,
    *,
    embed_preprocessing: bool = False,
    io: str = "float32",
    opset: int = DEFAULT_OPSET,
    target: str = "litert",
    max_drop: float = 0.5,
    recipe: str | os.PathLike | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    overwrite: bool = False,
    keep_failing: bool = False,
    report: Callable[[str], None] = lambda message: None,
) -> list[Artifact]:
    """Export a ``.keras`` model made by vitsd; names and defaults are those of ``vitsd-export``.

    Args:
        model: what :func:`vitsd.from_pretrained` takes; by default that of the newest run under ``runs/``.
        format: one or several of ``saved_model``, ``tflite``, ``onnx``, ``all``.
        quantize: one or several of ``none``, ``float16``, ``dynamic``, ``int8``, ``int8-full``, ``int4``; a format gets
            those that it knows. Beside a quantised file go its recipe (``.recipe.json``) and a picture of what each layer
            costs (``.sensitivity.png``).
        output: folder for the files; by default the model's, and the current one for models found by name.
        data: labelled images: training images give the ranges of activations, validation images decide on precisions,
            test images pass the parity gate. By default what the model was trained on.
        embed_preprocessing: the graph takes uint8 images of the input size and normalises and resizes them itself.
        io: ``float32`` or ``int8`` input and output tensors of ``int8`` TFLite files.
        opset: of ONNX.
        target: runtime that the ``.tflite`` is for, one of :data:`vitsd_export.formats.tflite_targets.TARGETS`.
        max_drop: largest loss of top-1 accuracy that quantisation may cost on the validation images, in points.
        recipe: a ``.recipe.json`` of an earlier export, to be replayed instead of a search.
        calibration_images: how many training images the ranges of activations are taken from.
        overwrite: replace files that are there.
        keep_failing: keep files that fail the parity gate.
        report: called with a line of text about what is being done.

    Returns:
        What was written, in order. All of them passed, unless ``keep_failing``.

    Raises:
        UsageError: a wrong option, a file in the way, no usable data.
        ParityError: files failed the parity gate (after all others were written); it carries all comparisons.
        BudgetError: no quantised model within the budget was found; nothing of it is kept.
        VitsdError: a converter refused the graph.
    """
    from vitsd.evaluation.evaluate import labelled_images, load_matching
    from vitsd.hub.pretrained import locate
    from vitsd.hub.saving import load_model
    from vitsd.training.train import predict_logits
    from vitsd_export.quantization.search import BudgetError

    trained = newest_model() if model is None else locate(model)
    keras_model, spec = load_model(trained)
    if output is None:  # a model found by its name lies among packages or downloads
        output = trained.parent if model is None or Path(model).exists() else "."
    output = Path(output)
    targets = plan(_as_list(format), _as_list(quantize), spec.name, output)
    integer_io = io == "int8"
    if io not in ("float32", "int8"):
        raise UsageError(f"io must be float32 or int8; got {io!r}.")
    if opset not in OPSETS:
        raise UsageError(f"opset must be {OPSETS.start} to {OPSETS.stop - 1}; got {opset}.")
    if integer_io and ("tflite", "int8") not in targets:
        raise UsageError(
            "int8 input and output need --format tflite --quantize int8 (int8-full has them anyway)."
        )
    if embed_preprocessing and any(q == "int8-full" for _, q in targets):
        raise UsageError(
            "An int8-full graph takes int8 inputs, so it can't embed the preprocessing of uint8 pixels."
        )
    known = get_target(target).quantizations
    if refused := [q for kind, q in targets if kind == "tflite" and q not in known]:
        raise UsageError(f"{target} can't run {refused[0]} files; it takes {', '.join(known)}.")
    if not 0 <= max_drop <= 100:
        raise UsageError(f"max_drop must be 0 to 100 points; got {max_drop:g}.")
    if calibration_images < FEWEST_IMAGES:
        raise UsageError(
            f"Calibration needs at least {FEWEST_IMAGES} images; got {calibration_images}."
        )
    replayed = None
    if recipe is not None:
        (kind, quantization), *others = targets
        if others or quantization not in BUDGETED:
            raise UsageError(
                f"--recipe needs a single --format and one --quantize of {', '.join(BUDGETED)}."
            )
        replayed = read_recipe(recipe)
        replayed.check(
            quantization,
            kind,
            "onnxruntime" if kind == "onnx" else target,
            spec.architecture.to_dict(),
        )
    if integer_io and embed_preprocessing:
        raise UsageError(
            "A graph with embedded preprocessing takes uint8 pixels: leave out --io int8."
        )
    if not overwrite and (present := [path for path in targets.values() if path.exists()]):
        raise UsageError(
            f"{present[0]} exists; replace it with --overwrite, or choose another --output."
        )
    for (kind, _), path in targets.items():
        if kind != "saved_model":
            check_writable(path)
    source = data or spec.provenance.source
    if not source:
        raise UsageError("Say which images to check the files with: --data SOURCE.")
    dataset = load_matching(source, spec)
    test = labelled_images(dataset, spec, "test", PARITY_IMAGES)

    from vitsd_export.artifact_writer import Evidence, Options, Writer
    from vitsd_export.gate import (
        compare,
    )  # TensorFlow is loaded when the request is known to be sound

    evidence = None
    if any(q in BUDGETED for _, q in targets):
        calibration = labelled_images(dataset, spec, "train", calibration_images)
        try:
            held_out = labelled_images(dataset, spec, "val", HELD_OUT_IMAGES)
        except UsageError:  # trained without a validation split
            held_out = calibration.take([])
        for split, images in (("training", calibration), ("validation", held_out)):
            if len(images) < FEWEST_IMAGES:
                lack = (
                    f"{dataset.name} has {len(images)} {split} images, fewer than {FEWEST_IMAGES}"
                )
                if any(q in BUDGETED and q != "dynamic" for _, q in targets):
                    raise UsageError(
                        f"{lack}: too few to quantise on. Give more with --data, train with a larger --validation, or use "
                        "--quantize dynamic."
                    )
                report(f"{lack}, so no budget can be checked: all layers become dynamic.")
                break
        else:
            logits = predict_logits(keras_model, held_out.images)
            evidence = Evidence(calibration.images, held_out.images, held_out.labels, logits)
    options = Options(
        embed_preprocessing, integer_io, opset, target, max_drop / 100, replayed, report
    )
    reference = predict_logits(keras_model, test.images)
    kept, comparisons, over_budget = [], [], []
    with Writer(keras_model, spec, evidence, options) as writer:
        for (kind, quantization), path in targets.items():
            report(f"{path.name} ...")
            with contextlib.suppress(_Rejected), atomic_write(path) as temporary:
                try:
                    info, found = writer.write(temporary, kind, quantization)
                except BudgetError as error:
                    over_budget.append(error)
                    raise _Rejected from error
                carried = write_spec(
                    temporary, spec.replace(export=info, provenance=spec.provenance.portable())
                )
                comparison = compare(temporary, carried, test.images, test.labels, reference)
                check_interrupted()
                comparison = dataclasses.replace(comparison, path=str(path))
                comparisons.append(comparison)
                info["parity"] = {"data": dataset.name, **comparison.figures()}
                carried = write_spec(temporary, carried.replace(export=info))
                if not comparison.passed and not keep_failing:
                    raise _Rejected  # inside, so that the temporary file is removed
                kept.append(Artifact(path, carried, comparison, found))
            if kept and kept[-1].path == path and found:
                _write_companions(path, info["recipe"], found)
    if len(kept) < len(comparisons):
        raise ParityError(comparisons, kept, over_budget)
    if over_budget:
        raise over_budget[0]
    return kept


def companions(path: Path) -> tuple[Path, Path]:
    """Where the recipe and the picture of a quantised file go."""
    return path.with_name(f"{path.name}.recipe.json"), path.with_name(
        f"{path.name}.sensitivity.png"
    )


def _write_companions(path: Path, recipe: dict, found: Found) -> None:
    from vitsd_export.quantization.plot import plot_sensitivity

    recipe_path, picture = companions(path)
    write_text(recipe_path, json.dumps(recipe, indent=1))
    picture.unlink(missing_ok=True)  # of an earlier export
    if found.divergence:
        plot_sensitivity(found, f"{path.name}: what each layer costs", picture)


class ParityError(VitsdError):
    """Files failed the parity gate and were not kept.

    ``comparisons`` holds those of all files, good and bad; ``artifacts`` the good files.
    """

    def __init__(
        self,
        comparisons: list[Comparison],
        artifacts: list[Artifact],
        over_budget: Sequence[VitsdError] = (),
    ):
        self.comparisons, self.artifacts = comparisons, artifacts
        failed = [
            f"{Path(c.path).name}: {'; '.join(c.failures)}" for c in comparisons if not c.passed
        ]
        super().__init__(
            "Beyond the tolerance of the parity gate, so not kept (--keep-failing keeps them): "
            + " | ".join([*failed, *map(str, over_budget)])
        )


class _Rejected(Exception):
    """A file failed the parity gate."""


def newest_model(root: str | os.PathLike = "runs") -> Path:
    """The ``model.keras`` under ``root`` that was written last. Raises UsageError if there is none."""
    models = sorted(Path(root).glob("*/model.keras"), key=lambda path: path.stat().st_mtime)
    if not models:
        raise UsageError(
            f"No model was given and there is none under {root}/ (a finished run leaves {root}/NAME/model.keras)."
        )
    return models[-1]


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
