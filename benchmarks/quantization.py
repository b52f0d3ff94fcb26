"""Speed, size and accuracy of every export of a trained model, against the plain graph with the converters' defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from benchmarks import baselines

from vitsd.config import VitConfig
from vitsd.evaluation.evaluate import labelled_images, load_matching, model_logits
from vitsd.evaluation.metrics import paired_difference, top_k_hits
from vitsd.hub.saving import load_model
from vitsd.training.train import predict_logits
from vitsd_export import export
from vitsd_export.exporter import artifact_name
from vitsd_export.formats.converters import to_tflite, write_saved_model
from vitsd_export.graph import build as graph
from vitsd_export.graph.folding import fold
from vitsd_export.graph.weights import read_weights
from vitsd_export.quantization.search import LayerChoice
from vitsd_export.quantization.tflite import TENSOR_GROUPS, TFLiteQuantizer
from vitsd_runtime import preprocess
from vitsd_runtime.benchmark import measure
from vitsd_runtime.formats import write_spec

TFLITE = ("none", "float16", "dynamic", "int8", "int8-full", "int4")
ONNX = ("none", "dynamic", "int8")


def compare(model: Path, source: str, scratch: Path, seconds: float = 3.0) -> dict:
    """Everything about one trained model: files, accuracy on its whole test set, latency in one interleaved run."""
    keras_model, spec = load_model(model)
    config = VitConfig.from_dict(spec.architecture)
    dataset = load_matching(source, spec)
    calibration = preprocess(labelled_images(dataset, spec, "train", 256).images, spec)
    files = dict(_plain(keras_model, config, spec, calibration, scratch))
    folded = fold(read_weights(keras_model, config), config)
    files |= _integer_steps(folded, config, spec, calibration, scratch)
    export(model, "tflite", TFLITE, scratch, source, report=print)
    export(model, "onnx", ONNX, scratch, source, report=print)
    export(
        model,
        "tflite",
        ["none", "dynamic", "int8"],
        scratch / "old",
        source,
        target="tflite-runtime-2.14",
    )
    for quantization in TFLITE:
        files[f"tflite {quantization}"] = scratch / artifact_name(spec.name, "tflite", quantization)
    for quantization in ONNX:
        files[f"onnx {quantization}"] = scratch / artifact_name(spec.name, "onnx", quantization)
    for quantization in ("dynamic", "int8"):
        old = scratch / "old" / artifact_name(spec.name, "tflite", quantization)
        files[f"tflite {quantization} for tflite-runtime 2.14"] = old

    test = labelled_images(dataset, spec, "test")
    reference = predict_logits(keras_model, test.images)
    rows = []
    latencies = measure(list(files.values()), threads=1, batch_size=1, seconds=seconds)
    for (name, path), latency in zip(files.items(), latencies, strict=True):
        logits = model_logits(path, test.images)
        change = paired_difference(
            top_k_hits(reference, test.labels, 1), top_k_hits(logits, test.labels, 1)
        )
        rows.append(
            {
                "name": name,
                "bytes": path.stat().st_size,
                "p50_ms": latency["p50_ms"],
                "runs": latency["runs"],
                "top1": float(top_k_hits(logits, test.labels, 1).mean()),
                "top1_change": change,
                "agreement": float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean()),
                "largest_difference": float(np.abs(logits - reference).max()),
            }
        )
    top1, top5 = (float(top_k_hits(reference, test.labels, k).mean()) for k in (1, 5))
    return {
        "model": spec.name,
        "images": len(test),
        "keras_top1": top1,
        "keras_top5": top5,
        "rows": rows,
    }


def _plain(keras_model, config, spec, calibration, scratch):
    module = baselines.plain_module(keras_model, config, None)
    for name, options in (
        ("plain tflite", {}),
        ("plain tflite, converter's dynamic", {"optimise": True}),
        ("plain tflite, converter's full int8", {"optimise": True, "calibration": calibration}),
    ):
        content = baselines.tflite(
            baselines.plain_module(keras_model, config, 1) if "calibration" in options else module,
            **options,
        )
        yield (
            name,
            _written(
                scratch, spec, name, content, "int8-full" if "calibration" in options else "dynamic"
            ),
        )
    path = scratch / "plain.onnx"
    baselines.onnx(module, path)
    write_spec(path, spec.replace(export={"quantization": "none", "batch_invariant": True}))
    yield "plain onnx", path


def _integer_steps(folded, config, spec, calibration, scratch) -> dict[str, Path]:
    """The way from the folded graph, all in int8, to ``int8-full``."""
    layers = [name for name, _ in graph.dense_layers(folded)]
    masks = graph.bounded_masks(calibration, folded)
    same = {name: LayerChoice("static", "minmax") for name in TENSOR_GROUPS}
    steps = {
        "int8-full 1: folded, all in int8": (graph.Style(), -1e9),
        f"int8-full 2: mask bounded ({min(masks):g})": (graph.Style(), min(masks)),
        "int8-full 3: products as FULLY_CONNECTED": (graph.Style(integer_masks=masks), -1e9),
    }
    files = {}
    for number, (name, (style, mask)) in enumerate(steps.items()):
        usual, graph._MASK = graph._MASK, mask
        try:
            folder = scratch / f"step{number}"
            write_saved_model(graph.inference_module(folded, spec, style=style), folder)
        finally:
            graph._MASK = usual
        content = TFLiteQuantizer(to_tflite(folder), layers, calibration).build_integer(same)
        files[name] = _written(scratch, spec, f"step{number}", content, "int8-full")
    return files


def _written(scratch: Path, spec, name: str, content: bytes, quantization: str) -> Path:
    path = scratch / f"{name.replace(' ', '-').replace(',', '')}.tflite"
    path.write_bytes(content)
    write_spec(path, spec.replace(export={"quantization": quantization, "batch_invariant": True}))
    return path


def promises(report: dict) -> list[list[str]]:
    """Rows of what was promised, from a report of :func:`compare`."""
    rows = {row["name"]: row for row in report["rows"]}

    def faster(name, than, at_least):
        ratio = rows[than]["p50_ms"] / rows[name]["p50_ms"]
        return [f"{name} faster than {than}", f"{ratio:.2f}x", f"at least {at_least}x"]

    def kept(name, drop, agreement=None):
        row = rows[name]
        change, low, high = (100 * value for value in row["top1_change"])
        yield [
            f"{name}, top-1",
            f"{change:+.2f} points ({low:+.2f} to {high:+.2f})",
            f"at most -{drop}",
        ]
        if agreement:
            yield [
                f"{name}, agreement",
                f"{100 * row['agreement']:.2f} %",
                f"at least {agreement} %",
            ]

    plain, dynamic = "plain tflite", "plain tflite, converter's dynamic"
    return [
        faster("tflite none", plain, 1.2),
        faster("onnx none", "plain onnx", 1.2),
        faster("tflite dynamic", dynamic, 1.2),
        *kept("tflite dynamic", 0.2),
        faster("tflite int8", dynamic, 1.5),
        faster("tflite int8", plain, 2.5),
        *kept("tflite int8", 0.5, 97),
        faster("tflite int8-full", plain, 1.0),
        *kept("tflite int8-full", 0.5, 96),
        *kept("tflite int8 for tflite-runtime 2.14", 0.5, 97),
    ]
