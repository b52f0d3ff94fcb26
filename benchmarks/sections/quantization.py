"""Speed, size and accuracy of every export of a trained model, against the converters' defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import baselines
from benchmarks.sections import Request, Results
from vitsd.config import VitConfig
from vitsd.data.dataset import Split
from vitsd.evaluation.evaluate import labeled_images, load_matching
from vitsd.evaluation.metrics import agreement, paired_difference, top_k_hits
from vitsd.evaluation.predict import pixel_logits, predict_logits
from vitsd.hub.saving import load_model
from vitsd.training.run import recorded_source
from vitsd_export import export
from vitsd_export.formats.saved_model import write_saved_model
from vitsd_export.formats.tflite import to_tflite
from vitsd_export.formats.tflite_targets import TargetName
from vitsd_export.graph.folding import FoldedVit, fold
from vitsd_export.graph.layer_names import kernels
from vitsd_export.graph.masks import bounded_masks
from vitsd_export.graph.module import inference_module
from vitsd_export.graph.options import GraphOptions
from vitsd_export.graph.weights import read_weights
from vitsd_export.options import artifact_name
from vitsd_export.quantization.recipe import LayerChoice
from vitsd_export.quantization.schemes import quantizations_of
from vitsd_export.quantization.tflite import TFLiteQuantizer
from vitsd_runtime import Classifier, preprocess
from vitsd_runtime.benchmark import measure
from vitsd_runtime.formats import write_spec
from vitsd_runtime.spec import ExportInfo, ModelSpec
from vitsd_runtime.spec.sections import to_dict
from vitsd_runtime.system.text import table
from vitsd_runtime.types import Float32Array, Format, Quantization

CALIBRATION_IMAGES = 256
SECONDS = 3.0
_IMAGES_AT_ONCE = 64
OLD_TARGET: TargetName = "tflite-runtime-2.14"
FOR_OLD_TARGET: tuple[Quantization, ...] = ("dynamic", "int8")
PLAIN, PLAIN_ONNX = "plain tflite", "plain onnx"
PLAIN_DYNAMIC, PLAIN_INT8 = (
    "plain tflite, converter's dynamic",
    "plain tflite, converter's full int8",
)
HEADERS = ["file", "MB", "p50 ms", "top-1 %", "change (95 %)", "agreement %", "max |diff|"]
Files = dict[str, Path]
"""Files by what they are called in the results."""


def run(request: Request) -> Results:
    """Export, then measure accuracy on the whole test set and latency in turns."""
    if request.model is None:
        raise ValueError("this section needs a trained model")
    model, spec = load_model(request.model)
    data = request.data or recorded_source(request.model, spec)
    if data is None:
        raise ValueError("this section needs the images that the model was trained on")
    dataset = load_matching(data, spec)
    calibration = preprocess(
        labeled_images(dataset, spec, "train", CALIBRATION_IMAGES).images[:], spec
    )
    files = {
        **_PlainFiles(model, spec, request.scratch).write(calibration),
        **_integer_steps(model, spec, calibration, request.scratch),
        **_export_all(request.model, spec, data, request.scratch),
    }
    test = labeled_images(dataset, spec, "test")
    reference = predict_logits(model, test.images)
    rows = _measure(files, test, reference)
    print(table([_cells(row) for row in rows], HEADERS))
    top1, top5 = (float(top_k_hits(reference, test.labels, k).mean()) for k in (1, 5))
    return {
        "model": spec.name,
        "images": len(test),
        "keras_top1": top1,
        "keras_top5": top5,
        "rows": rows,
        "model_provenance": to_dict(spec.provenance.portable()),
        "summary": list(_promises({row["name"]: row for row in rows})),
    }


def _write(folder: Path, name: str, content: bytes, spec: ModelSpec, info: ExportInfo) -> Path:
    path = folder / f"{name.replace(' ', '-').replace(',', '')}.{info.format}"
    path.write_bytes(content)
    write_spec(path, spec.replace(export=info))
    return path


class _PlainFiles:
    """The plain Keras graph by the converters' own defaults."""

    def __init__(self, model: Any, spec: ModelSpec, folder: Path) -> None:
        self._model, self._spec, self._folder = model, spec, folder
        self._config = VitConfig.from_spec(spec)

    def write(self, calibration: Float32Array) -> Files:
        """Every format and the converter's own quantizations."""
        module = baselines.plain_module(self._model, self._config, None)
        single = baselines.plain_module(self._model, self._config, 1)
        full_int8 = baselines.to_tflite(single, optimize=True, calibration=calibration)
        return {
            PLAIN: self._write(PLAIN, baselines.to_tflite(module), "none"),
            PLAIN_DYNAMIC: self._write(
                PLAIN_DYNAMIC, baselines.to_tflite(module, optimize=True), "dynamic"
            ),
            PLAIN_INT8: self._write(PLAIN_INT8, full_int8, "int8-full"),
            PLAIN_ONNX: self._write(PLAIN_ONNX, baselines.to_onnx(module), "none", "onnx"),
        }

    def _write(
        self, name: str, content: bytes, quantization: Quantization, format: Format = "tflite"
    ) -> Path:
        info = ExportInfo(format, quantization)
        return _write(self._folder, name, content, self._spec, info)


class _UniformQuantizer(TFLiteQuantizer):
    """Chooses the range of every tensor alike: also for graphs without groups of tensors."""

    GROUP = "all"

    def tensor_group(self, tensor: str) -> str:
        """One for all."""
        return self.GROUP


def _integer_steps(model: Any, spec: ModelSpec, calibration: Float32Array, folder: Path) -> Files:
    """What leads from the folded graph, all in int8, to ``int8-full``."""
    config = VitConfig.from_spec(spec)
    folded = fold(read_weights(model, config), config)
    masks = bounded_masks(calibration, folded)
    steps = {
        "int8-full 1: folded, all in int8": GraphOptions(),
        f"int8-full 2: mask bounded ({min(masks):g})": GraphOptions(mask=min(masks)),
        "int8-full 3: products as FULLY_CONNECTED": GraphOptions(integer_masks=masks),
    }
    files = {}
    for number, (name, options) in enumerate(steps.items()):
        saved_model = folder / f"step{number}"
        content = _all_integer(folded, spec, options, calibration, saved_model)
        info = ExportInfo("tflite", "int8-full")
        files[name] = _write(folder, f"step{number}", content, spec, info)
    return files


def _all_integer(
    folded: FoldedVit,
    spec: ModelSpec,
    options: GraphOptions,
    calibration: Float32Array,
    saved_model: Path,
) -> bytes:
    write_saved_model(inference_module(folded, spec, options=options), saved_model)
    layers = [name for name, _ in kernels(folded)]
    quantizer = _UniformQuantizer(to_tflite(saved_model), layers, calibration)
    return quantizer.build_integer({_UniformQuantizer.GROUP: LayerChoice("static")})


def _export_all(model: Path, spec: ModelSpec, data: str | None, folder: Path) -> Files:
    """Every format and quantization by ``vitsd_export.export``."""
    files: Files = {}
    formats: tuple[Format, ...] = ("tflite", "onnx")
    for format in formats:
        quantizations = quantizations_of(format)
        export(model, format, quantizations, folder, data)
        for quantization in quantizations:
            name = artifact_name(spec.name, format, quantization)
            files[f"{format} {quantization}"] = folder / name
    old = folder / "old"
    export(model, "tflite", FOR_OLD_TARGET, old, data, target=OLD_TARGET)
    for quantization in FOR_OLD_TARGET:
        path = old / artifact_name(spec.name, "tflite", quantization)
        files[f"tflite {quantization} for tflite-runtime 2.14"] = path
    return files


def _measure(files: Files, test: Split, reference: Float32Array) -> list[Results]:
    latencies = measure(
        list(files.values()),
        num_threads=1,
        batch_size=1,
        seconds=SECONDS,
        allow_any_operation=True,  # the plain graphs' too
    )
    reference_hits = top_k_hits(reference, test.labels, 1)
    rows = []
    for (name, path), latency in zip(files.items(), latencies, strict=True):
        classifier = Classifier.load(path, batch_size=_IMAGES_AT_ONCE, allow_any_operation=True)
        logits = pixel_logits(classifier, test.images[:])
        hits = top_k_hits(logits, test.labels, 1)
        rows.append(
            {
                "name": name,
                "bytes": path.stat().st_size,
                "p50_ms": latency["p50_ms"],
                "runs": latency["runs"],
                "top1": float(hits.mean()),
                "top1_change": paired_difference(reference_hits, hits),
                "agreement": agreement(logits, reference),
                "largest_difference": float(np.abs(logits - reference).max()),
            }
        )
    return rows


def _cells(row: Results) -> list[str]:
    change, low, high = (100 * value for value in row["top1_change"])
    return [
        row["name"],
        f"{row['bytes'] / 1e6:.2f}",
        f"{row['p50_ms']:.3f}",
        f"{100 * row['top1']:.2f}",
        f"{change:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{100 * row['agreement']:.2f}",
        f"{row['largest_difference']:.2g}",
    ]


def _promises(rows: Mapping[str, Results]) -> Iterator[list[str]]:
    """Rows of what was promised."""

    def faster(name: str, than: str, at_least: float) -> list[str]:
        ratio = rows[than]["p50_ms"] / rows[name]["p50_ms"]
        return [f"{name} faster than {than}", f"{ratio:.2f}x", f"at least {at_least}x"]

    yield faster("tflite none", PLAIN, 1.2)
    yield faster("onnx none", PLAIN_ONNX, 1.2)
    yield faster("tflite dynamic", PLAIN_DYNAMIC, 1.2)
    yield _top1(rows["tflite dynamic"], 0.2)
    yield faster("tflite int8", PLAIN_DYNAMIC, 1.5)
    yield faster("tflite int8", PLAIN, 2.5)
    yield from (_top1(rows["tflite int8"], 0.5), _agreement(rows["tflite int8"], 97))
    yield faster("tflite int8-full", PLAIN, 1.0)
    yield from (_top1(rows["tflite int8-full"], 0.5), _agreement(rows["tflite int8-full"], 96))
    old = rows["tflite int8 for tflite-runtime 2.14"]
    yield from (_top1(old, 0.5), _agreement(old, 97))


def _top1(row: Results, at_most: float) -> list[str]:
    change, low, high = (100 * value for value in row["top1_change"])
    figures = f"{change:+.2f} points ({low:+.2f} to {high:+.2f})"
    return [f"{row['name']}, top-1", figures, f"at most -{at_most}"]


def _agreement(row: Results, at_least: float) -> list[str]:
    return [
        f"{row['name']}, agreement",
        f"{100 * row['agreement']:.2f} %",
        f"at least {at_least} %",
    ]
