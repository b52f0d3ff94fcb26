"""Export a trained model: fold, convert, quantize, and keep what passes the parity gate."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitsd.config import VitConfig
from vitsd.evaluation.confidence import fit_confidence
from vitsd.evaluation.evaluate import load_matching
from vitsd.hub.pretrained import locate
from vitsd.hub.saving import MODEL_FILE, load_model
from vitsd.recipe import TrainingRecipe
from vitsd.training.run import newest_run, recorded_source
from vitsd_export.devices.ethos_u import ACCELERATORS
from vitsd_export.devices.proof import DEVICES, Limits, Proof, check_installed, prove
from vitsd_export.layouts import Layout, Served
from vitsd_export.options import (
    ExportKeywords,
    ExportOptions,
    compiled_path,
    output_paths,
    sidecar_paths,
)
from vitsd_export.quantization.schemes import SCHEMES, Output, format_of
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import model_bytes, require_spec, write_spec
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.spec import Confidence, ExportInfo, ModelSpec
from vitsd_runtime.system.files import (
    atomic_write,
    check_writable,
    temporary_folder,
    write_text,
)
from vitsd_runtime.system.signals import check_interrupted
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Float32Array, PathLike, Quantization

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vitsd_export.artifact_writer import ArtifactWriter
    from vitsd_export.data import ParityData, ValidationData
    from vitsd_export.gate import Comparison
    from vitsd_export.golden import GoldenImages
    from vitsd_export.quantization.search import BudgetError, SearchResult
    from vitsd_export.web import LiteRtJs

_log = logging.getLogger(__name__)

Paths = Mapping[tuple[Output, Quantization], Path]


@dataclass(frozen=True)
class Artifact:
    """An exported model and what the parity gate measured."""

    path: Path
    spec: ModelSpec
    """As carried by the file; ``spec.export`` says format, quantization and parity figures."""
    comparison: Comparison
    search: SearchResult | None = None
    """What was searched, for a quantized file."""
    compiled: bytes | None = None
    """For an NPU, as it lies beside the file."""


class ParityError(VitsdError):
    """Files failed the parity gate and were not kept.

    ``comparisons`` holds those of all files, good and bad; ``artifacts`` the good files.
    """

    def __init__(
        self,
        comparisons: Sequence[Comparison],
        artifacts: Sequence[Artifact],
        over_budget: Sequence[VitsdError] = (),
    ) -> None:
        self.comparisons, self.artifacts = list(comparisons), list(artifacts)
        failed = [
            f"{Path(c.path).name}: {'; '.join(c.failures)}" for c in comparisons if not c.passed
        ]
        super().__init__(
            "Failed the parity gate, so not kept (`keep_failing` keeps them): "
            + " | ".join([*failed, *map(str, over_budget)])
        )


def export(
    model: PathLike | None = None,
    format: str | Sequence[str] = "tflite",
    quantization: str | Sequence[str] = "none",
    output: PathLike | None = None,
    data: str | None = None,
    *,
    quantize: str | Sequence[str] | None = None,
    **options: Unpack[ExportKeywords],
) -> list[Artifact]:
    """Export a ``.keras`` model made by vitsd; names and defaults are those of ``vitsd-export``.

    Args:
        model: what :func:`vitsd.from_pretrained` takes; by default that of the newest run under
            ``runs/``.
        format: one or several of ``saved_model``, ``tflite``, ``onnx``, ``all`` (of these),
            ``web``.
        quantization: one or several of ``none``, ``float16``, ``dynamic``, ``int8``,
            ``int8-full``, ``int4``; a format gets those that it takes. Beside a quantized file go
            its recipe (``.recipe.json``) and a picture of what each layer costs
            (``.sensitivity.png``).
        output: folder for the files; by default the model's, and the current one for models found
            by name.
        data: labeled images: training images give the ranges of activations, validation images
            decide on precisions, test images pass the parity gate. By default what the model was
            trained on, if that is a built-in dataset or the model lies in its run folder.
        quantize: the old name of ``quantization``.
        **options: those of :class:`vitsd_export.ExportOptions`.

    Returns:
        What was written, in order. All of them passed, unless ``keep_failing``.

    Raises:
        UsageError: a wrong option, a file in the way, no usable data.
        ParityError: files failed the parity gate (after all others were written); it carries all
            comparisons.
        BudgetError: no quantized model within the budget was found; nothing of it is kept.
        VitsdError: a converter refused the graph.
    """
    if quantize is not None:
        warnings.warn("quantize is called quantization now", DeprecationWarning, stacklevel=2)
        quantization = quantize
    checked = ExportOptions(format, quantization, **options)
    check_installed(checked.target)
    trained = newest_run(containing=MODEL_FILE) / MODEL_FILE if model is None else locate(model)
    keras_model, spec = load_model(trained)
    paths = output_paths(checked, spec.name, _output_folder(output, model, trained))
    checked.load_recipe(VitConfig.from_spec(spec).architecture)  # refuses it, if it is another's
    _check_outputs(paths, checked)
    source = data or recorded_source(trained, spec)
    if source is None:
        raise UsageError("Say which images to check the files with: `data=SOURCE`.")
    return _export_all(keras_model, spec, paths, source, checked)


def _output_folder(output: PathLike | None, model: PathLike | None, trained: Path) -> Path:
    """Where files go; a model found by its name lies among packages or downloads."""
    if output is not None:
        return Path(output)
    found_by_name = model is not None and not Path(model).exists()
    return Path() if found_by_name else trained.parent


def _check_outputs(paths: Paths, options: ExportOptions) -> None:
    for (output, quantization), path in paths.items():
        beside = _files_beside(path, quantization, options.target_of(output))
        for file in (path, *beside):
            if file.exists() and not options.overwrite and not _is_recipe(file, options):
                raise UsageError(
                    f"{printable(file)} exists; replace it with `overwrite`, or choose another "
                    "`output`."
                )
        if options.served_by is not None:
            _check_folder(options.served_by, path)
        else:
            check_writable(path, folder=output in ("saved_model", "web"))
        for file in beside:
            check_writable(file)


def _files_beside(path: Path, quantization: Quantization, target: str) -> list[Path]:
    """What an export may write, or delete, beside the model."""
    files = [*sidecar_paths(path)] if SCHEMES[quantization].searched else []
    if target in ACCELERATORS:
        files.append(compiled_path(path, ACCELERATORS[target].config))
    return files


def _is_recipe(file: Path, options: ExportOptions) -> bool:
    """Whether a file is the recipe that is replayed: it may stay beside what is made by it."""
    recipe = options.recipe
    return isinstance(recipe, (str, os.PathLike)) and os.path.samefile(file, recipe)


def _check_folder(layout: Layout, path: Path) -> None:
    """A model repository belongs to a server: nothing of others, no other version is replaced."""
    if path.exists() and not layout.owns(path):
        raise UsageError(
            f"{printable(path)} exists and is not just an earlier export for {layout.help}: choose "
            "another `output`."
        )


def _export_all(
    model: Any, spec: ModelSpec, paths: Paths, source: str, options: ExportOptions
) -> list[Artifact]:
    if spec.value_range is not None and options.served_by is not None:
        raise UsageError(
            "A model that was trained with a `value_range` takes no plain pixels, so it can't be "
            "exported with a `layout`."
        )
    litert_js = _find_litert_js(paths, spec, options)
    dataset = load_matching(source, spec)
    # TensorFlow is loaded when the request is known to be sound.
    from vitsd_export.artifact_writer import ArtifactWriter
    from vitsd_export.data import ParityData, ValidationData, load_held_out
    from vitsd_export.golden import GoldenImages

    validation = ValidationData.load(spec, dataset)
    if validation.unfit:
        _log.info(
            "%s, so files keep the trained model's temperature and threshold.", validation.unfit
        )
    held_out = load_held_out(model, spec, dataset, validation, options)
    test = ParityData.load(model, spec, dataset)
    golden = GoldenImages.choose(model, spec, test)
    outcomes = _Outcomes()
    # load_model has built the model from the spec, so its shapes fit.
    with ArtifactWriter(model, spec, held_out, options, check_shapes=False) as writer:
        exporter = _Exporter(writer, spec, test, validation, golden, options, litert_js)
        for (output, quantization), path in paths.items():
            exporter.export(path, output, quantization, outcomes)
    outcomes.raise_failures()
    return outcomes.kept


def _find_litert_js(paths: Paths, spec: ModelSpec, options: ExportOptions) -> LiteRtJs | None:
    """The engine of browsers, if one is needed: before all work, because it may not be there."""
    if not any(output == "web" for output, _ in paths):
        return None
    if spec.value_range is not None:
        raise UsageError(
            "Browsers give 8 bits of an image's values, so a model that was trained with a "
            "`value_range` can't be exported with `format=web`."
        )
    from vitsd_export.web import find_litert_js

    return find_litert_js(options.litert_js)


@dataclass
class _Outcomes:
    """What became of the files asked for."""

    kept: list[Artifact] = dataclasses.field(default_factory=list)
    comparisons: list[Comparison] = dataclasses.field(default_factory=list)
    over_budget: list[BudgetError] = dataclasses.field(default_factory=list)

    def raise_failures(self) -> None:
        if len(self.kept) < len(self.comparisons):
            raise ParityError(self.comparisons, self.kept, self.over_budget)
        if self.over_budget:
            raise self.over_budget[0]


@dataclass(frozen=True)
class _Exporter:
    """Writes files, and keeps those that pass."""

    writer: ArtifactWriter
    spec: ModelSpec
    test: ParityData
    validation: ValidationData
    golden: GoldenImages
    options: ExportOptions
    litert_js: LiteRtJs | None
    """For folders for browsers."""

    def export(
        self, path: Path, output: Output, quantization: Quantization, outcomes: _Outcomes
    ) -> None:
        """Write one file, check it, and put it in its place if it is kept."""
        from vitsd_export.quantization.search import BudgetError
        from vitsd_export.web import write_web_folder

        _log.info("%s ...", path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent) as scratch:
            temporary = scratch / path.name
            model = self._model_in(temporary, path.name, output)
            try:
                artifact = self._write_and_compare(model, path, output, quantization, temporary)
            except BudgetError as error:  # other artifacts may still meet their budget
                outcomes.over_budget.append(error)
                return
            check_interrupted()
            outcomes.comparisons.append(artifact.comparison)
            if output == "web" and self.litert_js is not None:
                write_web_folder(temporary, artifact.spec, self.litert_js)
            if artifact.comparison.passed or self.options.keep_failing:
                self._remove_beside(artifact)
                _put_in_place(temporary, artifact)
                outcomes.kept.append(artifact)

    def _model_in(self, path: Path, name: str, output: Output) -> Path:
        """Where in what is exported the model goes; folders around it are made."""
        from vitsd_export.web import WEB_MODEL

        model, layout = path, self.options.served_by
        if output == "web":
            model = path / WEB_MODEL
        elif layout is not None:
            model = path / layout.model_path(name, format_of(output))
        if model != path:
            model.parent.mkdir(parents=True)
        return model

    def _write_and_compare(
        self, model: Path, path: Path, output: Output, quantization: Quantization, folder: Path
    ) -> Artifact:
        """Write what is for ``path`` to ``model`` in ``folder``; the spec last: it has figures."""
        from vitsd_export.gate import Comparison, exported_logits, measure_parity

        written = self.writer.write(model, output, quantization)
        provenance = self.spec.provenance.portable()
        spec = self.spec.replace(export=written.info, provenance=provenance)
        test = self.test
        parts = (self.golden.pixels, test.images, self.validation.images)
        logits = exported_logits(model, spec, np.concatenate(parts))
        ends = np.cumsum([len(images) for images in parts])[:-1]
        of_golden, of_test, of_validation = np.split(logits, ends)
        proof = self._prove(model, written.info, of_test)
        figures = measure_parity(proof.logits, test.labels, test.reference, spec, test.name)
        failures = (*figures.failures, *proof.failures)
        figures = dataclasses.replace(figures, trained_on=test.trained_on, failures=failures)
        spec = spec.replace(
            export=dataclasses.replace(proof.info, parity=figures),
            golden=self.golden.record(spec, of_golden),
            confidence=self._confidence(of_validation),
        )
        self._surround(folder, path.name, spec, model)
        write_spec(model, spec)
        spec = require_spec(model)  # what a device will read
        comparison = Comparison.of(figures, str(path), spec, model_bytes(model))
        return Artifact(path, spec, comparison, written.search, proof.compiled)

    def _prove(self, model: Path, info: ExportInfo, logits: Float32Array) -> Proof:
        """On the device that the file is made for; ``logits``: of the test images, here."""
        if info.target not in DEVICES:
            return Proof(info, logits)
        inputs = preprocess(self.test.images, self.spec)
        share = SCHEMES[info.quantization].machine_difference
        limits = Limits(self.options.arena, share * float(self.test.reference.std()))
        return prove(model.read_bytes(), info, inputs, logits, limits)

    def _surround(self, folder: Path, name: str, spec: ModelSpec, model: Path) -> None:
        """Write what the layout wants beside the model: before its digests, which cover some."""
        layout, export = self.options.served_by, spec.export
        if layout is None or export is None or export.format is None:
            return
        files = layout.files(Served(name, spec, self.golden.pixels, model), export.format)
        for place, content in files.items():
            file = folder / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def _remove_beside(self, artifact: Artifact) -> None:
        """Remove what belongs to an earlier export of this name, and may not be written again."""
        export = artifact.spec.export
        if export is None:
            return
        for file in _files_beside(artifact.path, export.quantization, export.target):
            if file.exists() and not _is_recipe(file, self.options):
                file.unlink()

    def _confidence(self, logits: Float32Array) -> Confidence | None:
        """From the validation images' logits of a file; the trained model's if that can't be."""
        trained = self.spec.confidence
        if self.validation.unfit:
            return trained
        coverage = self.options.coverage or (trained and trained.coverage)
        return fit_confidence(logits, self.validation.labels, coverage or TrainingRecipe.coverage)


def _put_in_place(temporary: Path, artifact: Artifact) -> None:
    with atomic_write(artifact.path) as target:
        shutil.move(temporary, target)
    export = artifact.spec.export
    if artifact.search is not None and export is not None:
        _write_sidecars(artifact.path, export.recipe, artifact.search)
    if artifact.compiled is not None and export is not None and export.npu is not None:
        with atomic_write(compiled_path(artifact.path, export.npu.accelerator)) as target:
            target.write_bytes(artifact.compiled)


def _write_sidecars(path: Path, recipe: Mapping[str, Any], search: SearchResult) -> None:
    from vitsd_export.quantization.plot import plot_sensitivity

    recipe_path, picture = sidecar_paths(path)
    write_text(recipe_path, json.dumps(recipe, indent=1))
    if search.sensitivity:
        plot_sensitivity(search, f"{path.name}: what each layer costs", picture)
