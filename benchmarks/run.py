"""``make bench``: what is promised about speed and size, measured on this machine.

Writes benchmarks/results/MACHINE.json and prints a table. What is compared is run in turns, because machines are noisy;
judge by the ratios. Latency does not depend on the weights' values, so the models are untrained, except in the section
``quantization``, which needs a model trained with ``vitsd-train`` and its dataset.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from vitsd.cli import load_keras
from vitsd_runtime.models.catalog import BUNDLED, bundled_model
from vitsd_runtime.system.machine import describe_machine
from vitsd_runtime.system.text import table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=sorted(SECTIONS),
        default=sorted(SECTIONS),
        help="sections to run",
    )
    parser.add_argument(
        "--model",
        type=Path,
        help="trained model.keras for the section quantization (else it is left out)",
    )
    parser.add_argument("--data", help="its dataset (default: what it was trained on)")
    parser.add_argument(
        "--output", type=Path, help="JSON file (default: benchmarks/results/MACHINE.json)"
    )
    arguments = parser.parse_args()
    machine = describe_machine()
    name = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['cores']} cores".lower()).strip(
        "-"
    )
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{name}.json"
    report = json.loads(output.read_text()) if output.exists() else {"command": "make bench"}
    report["machine"] = machine
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        load_keras()
        for section in arguments.only:
            print(f"{section} ...", flush=True)
            if section == "quantization":
                if not arguments.model:
                    print("left out: it needs --model, a model.keras trained with vitsd-train")
                    continue
                report[section] = quantization(Path(scratch), arguments.model, arguments.data)
            else:
                report[section] = SECTIONS[section](Path(scratch))
            rows += [[section, *row] for row in report[section]["summary"]]
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows, ["section", "what", "measured", "promised"]))
    print(
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}. Details: {output}"
    )
    return 0


def training(scratch: Path) -> dict:
    """Images per second of ``vitsd-train``'s loop against a bare Keras step, ``vit-small-ds``, batch 256, float32."""
    import keras

    from vitsd.data.dataset import Split
    from vitsd.model.vit import build_vit
    from vitsd.presets import get_preset
    from vitsd.training import callbacks as cb
    from vitsd.training.augmentation import BatchAugmentation, model_augmentation
    from vitsd.training.batches import Batches
    from vitsd.training.train import compile_model

    preset, steps, rounds = get_preset("vit-small-ds"), 4, 4
    size = preset.recipe.batch_size
    random = np.random.default_rng(0)
    split = Split(
        random.integers(0, 256, (size * steps, 32, 32, 3), dtype=np.uint8),
        random.integers(0, 100, size * steps),
    )
    bare = build_vit(preset.config, mean=[120] * 3, variance=[4000] * 3)
    compile_model(bare, preset.recipe, steps)
    whole = build_vit(
        preset.config,
        mean=[120] * 3,
        variance=[4000] * 3,
        augmentation=model_augmentation(preset.recipe),
    )
    compile_model(whole, preset.recipe, steps)
    batches = Batches(split, 100, size, seed=0, augment=BatchAugmentation(preset.recipe))
    pixels, labels = batches[0]
    history: list[dict] = []
    chain = [
        cb.EpochSeeds(batches, 0),
        cb.MetricsLog(scratch / "metrics.csv", len(split), history),
        cb.Progress(steps, size),
    ]
    # Once per epoch of 45,000 images, so they are timed apart and shared out over as many.
    savers = [cb.BestWeights(scratch / "best.npz"), cb.LastCheckpoint(scratch / "last.weights.h5")]

    def fit(epoch):
        whole.fit(
            batches,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
            shuffle=False,
            callbacks=chain,
        )
        return history[-1]["images_per_second"]

    def step():
        start = time.perf_counter()
        for _ in range(steps):
            bare.train_on_batch(pixels, labels)
        return size * steps / (time.perf_counter() - start)

    step(), fit(0)  # compile
    measured = [(step(), fit(i + 1)) for i in range(rounds)]
    saving = []
    for epoch in range(3):
        start = time.perf_counter()
        for saver in savers:
            saver.set_model(whole)
            saver.on_epoch_end(epoch, {})
        saving.append(time.perf_counter() - start)
    bare_speed, whole_speed = (float(np.median(values)) for values in zip(*measured, strict=True))
    saving_share = float(np.median(saving)) / (45_000 / bare_speed)
    overhead = float(np.median([b / w - 1 for b, w in measured])) + saving_share
    return {
        "keras": keras.__version__,
        "bare_images_per_second": [b for b, _ in measured],
        "fit_images_per_second": [w for _, w in measured],
        "checkpoint_seconds": saving,
        "overhead": overhead,
        "summary": [
            ["bare Keras step, images/s", f"{bare_speed:.1f}", ""],
            ["vitsd-train's loop with augmentation, images/s", f"{whole_speed:.1f}", ""],
            [
                "input pipeline, augmentation, callbacks and checkpoints on top",
                f"{100 * overhead:+.1f} %",
                "at most 5 %",
            ],
        ],
    }


def runtime(scratch: Path) -> dict:
    """Import time, wheel size, memory, and what ``Classifier`` adds to the bare engine."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "-w",
            scratch,
            ROOT / "runtime",
        ],
        check=True,
    )
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        code = sum(
            entry.compress_size for entry in archive.infolist() if "/models/" not in entry.filename
        )
    imports = []
    for _ in range(15):
        empty, full = (_seconds(f"import {module}") for module in ("sys", "vitsd_runtime"))
        imports.append(full - empty)
    overhead = _classifier_overhead(
        _export("vit-small-ds", scratch, ["tflite none"])["tflite none"]
    )
    tiny = _export("tiny", scratch, ["tflite int8"])["tflite int8"]
    rss = _predict_rss(tiny, scratch)
    return {
        "import_seconds": imports,
        "wheel_bytes": wheel.stat().st_size,
        "wheel_bytes_without_model": code,
        "predict_peak_rss_mb": rss,
        **overhead,
        "summary": [
            ["import vitsd_runtime, median", f"{np.median(imports):.3f} s", "under 0.15 s"],
            ["wheel without its model", f"{code / 1000:.1f} kB", "under 100 kB"],
            ["peak RSS of vitsd-predict, tiny int8", f"{rss:.0f} MB", "under 120 MB"],
            [
                "Classifier on top of engine + preprocessing, batch 1, vit-small-ds",
                f"{100 * overhead['classifier_overhead']:+.2f} %",
                "under 10 %",
            ],
        ],
    }


def latency(scratch: Path) -> dict:
    """Latency of the exported formats and of the plain graph, batch 1, one thread."""
    from vitsd_runtime.benchmark import measure

    results, summary = [], []
    for preset in ("tiny", "vit-gap-ds", "vit-small-ds"):
        paths = {**_plain(preset, scratch), **_export(preset, scratch)}
        measured = dict(
            zip(
                paths,
                measure(list(paths.values()), threads=1, batch_size=1, seconds=3),
                strict=True,
            )
        )
        for name, row in measured.items():
            plain = measured["plain onnx" if "onnx" in name else "plain tflite"]["p50_ms"]
            row |= {
                "preset": preset,
                "name": name,
                "bytes": paths[name].stat().st_size,
                "faster": plain / row["p50_ms"],
            }
            size = f"{row['bytes'] / 1e6:.2f} MB"
            summary.append(
                [
                    f"{preset}, {name}",
                    f"{row['p50_ms']:.3f} ms, {row['faster']:.2f}x plain, {size}",
                    "",
                ]
            )
        results += measured.values()
    return {"results": results, "summary": summary}


def shipped(scratch: Path) -> dict:
    """The bundled model beside the published architecture in int8, by vitsd-bench, in a process without TensorFlow."""
    small_path = _export("vit-small-ds", scratch, ["tflite int8"])["tflite int8"]
    words = [
        "vitsd-bench",
        bundled_model(),
        small_path,
        "--threads",
        "1",
        "--batch-sizes",
        "1",
        "--seconds",
        "10",
        "--json",
    ]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    edge, small = json.loads(done.stdout)["results"]
    size = bundled_model().stat().st_size
    times = small["p50_ms"] / edge["p50_ms"]
    return {
        "results": [{**edge, "bytes": size}, small],
        "summary": [
            [BUNDLED, f"{edge['p50_ms']:.3f} ms, {size / 1e6:.2f} MB", "at most 1.5 MB"],
            [
                "vit-small-ds int8, share of its latency",
                f"{small['p50_ms']:.3f} ms, 1/{times:.2f}",
                "at most 1/6",
            ],
        ],
    }


def quantization(scratch: Path, model: Path, source: str | None) -> dict:
    """Every export of a trained model against the converters' defaults."""
    from benchmarks.quantization import compare, promises

    from vitsd.hub.saving import load_model

    spec = load_model(model)[1]
    report = compare(model, source or spec.provenance["source"], scratch)
    headers = ["file", "MB", "p50 ms", "top-1 %", "change (95 %)", "agreement %", "max |diff|"]
    cells = []
    for row in report["rows"]:
        change, low, high = (100 * value for value in row["top1_change"])
        cells.append(
            [
                row["name"],
                f"{row['bytes'] / 1e6:.2f}",
                f"{row['p50_ms']:.3f}",
                f"{100 * row['top1']:.2f}",
                f"{change:+.2f} ({low:+.2f} to {high:+.2f})",
                f"{100 * row['agreement']:.2f}",
                f"{row['largest_difference']:.2g}",
            ]
        )
    print(table(cells, headers))
    previous = {
        "model_provenance": {
            k: v for k, v in spec.provenance.items() if k not in ("source", "options")
        }
    }
    return {**report, **previous, "summary": promises(report)}


SECTIONS = {
    "latency": latency,
    "quantization": quantization,
    "runtime": runtime,
    "shipped": shipped,
    "training": training,
}


def _model(preset_name: str):
    """An untrained model and its spec."""
    import keras

    from vitsd.model.vit import build_vit
    from vitsd.presets import get_preset
    from vitsd_runtime.spec import ModelSpec

    keras.utils.set_random_seed(0)
    config = get_preset(preset_name).config
    channels = config.input_size[2]
    spec = ModelSpec(
        name=preset_name,
        class_names=[str(i) for i in range(config.num_classes)],
        input_size=config.input_size,
        image_size=config.image_size,
        mean=[120.0] * channels,
        variance=[4000.0] * channels,
        architecture=config.to_dict(),
    )
    return build_vit(config), spec


def _export(
    preset_name: str,
    scratch: Path,
    kinds=("tflite none", "tflite dynamic", "tflite int8", "tflite int4", "onnx none"),
):
    """Files by format and quantisation. All layers take their lowest precision: there is no accuracy to keep."""
    from vitsd_export.artifact_writer import Writer
    from vitsd_export.exporter import artifact_name
    from vitsd_export.quantization.recipe import LayerChoice
    from vitsd_export.quantization.tflite import TFLiteQuantizer
    from vitsd_runtime.formats import write_spec

    model, spec = _model(preset_name)
    images = np.random.default_rng(0).normal(
        size=(16, spec.image_size, spec.image_size, spec.input_size[2])
    )
    paths = {}
    with Writer(model, spec) as writer:
        for kind, quantization in (entry.split() for entry in kinds):
            path = scratch / artifact_name(preset_name, kind, quantization)
            if quantization == "none":
                info, _ = writer.write(path, kind, quantization)
            else:
                quantizer = TFLiteQuantizer(
                    writer.float_tflite(), list(writer.layers), images.astype(np.float32)
                )
                precision = {"int8": "static"}.get(quantization, quantization)
                path.write_bytes(
                    quantizer.build(dict.fromkeys(writer.layers, LayerChoice(precision)))
                )
                info = {"format": kind, "quantization": quantization, "batch_invariant": True}
            write_spec(path, spec.replace(export=info))
            paths[f"{kind} {quantization}"] = path
    return paths


def _plain(preset_name: str, scratch: Path) -> dict[str, Path]:
    from benchmarks import baselines

    from vitsd.config import VitConfig
    from vitsd_runtime.formats import write_spec

    model, spec = _model(preset_name)
    module = baselines.plain_module(model, VitConfig.from_dict(spec.architecture), None)
    paths = {
        name: scratch / f"{preset_name}-{name.replace(' ', '-')}"
        for name in ("plain tflite", "plain tflite dynamic")
    }
    paths = {name: path.with_suffix(".tflite") for name, path in paths.items()}
    paths["plain tflite"].write_bytes(baselines.tflite(module))
    paths["plain tflite dynamic"].write_bytes(baselines.tflite(module, optimise=True))
    paths["plain onnx"] = scratch / f"{preset_name}-plain.onnx"
    baselines.onnx(module, paths["plain onnx"])
    for path in paths.values():
        write_spec(path, spec.replace(export={"quantization": "none", "batch_invariant": True}))
    return paths


def _classifier_overhead(model: Path) -> dict:
    """``Classifier.logits`` of one image against preprocessing and the interpreter called by hand."""
    from ai_edge_litert.interpreter import Interpreter

    from vitsd_runtime import Classifier, preprocess

    classifier = Classifier.load(model, num_threads=1)
    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    inputs, outputs = (
        interpreter.get_input_details()[0]["index"],
        interpreter.get_output_details()[0]["index"],
    )
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def by_hand():
        interpreter.set_tensor(inputs, preprocess(image[None], classifier.spec))
        interpreter.invoke()
        return interpreter.get_tensor(outputs)

    def with_classifier():
        return classifier.logits(image)

    np.testing.assert_allclose(by_hand(), with_classifier(), atol=1e-4)
    times: dict = {by_hand: [], with_classifier: []}
    for _ in range(300):
        for function, measured in times.items():
            start = time.perf_counter()
            function()
            measured.append(time.perf_counter() - start)
    bare, ours = (1e3 * float(np.median(measured)) for measured in times.values())
    return {
        "engine_and_preprocessing_ms": bare,
        "classifier_ms": ours,
        "classifier_overhead": ours / bare - 1,
    }


def _predict_rss(model: Path, scratch: Path) -> float:
    """Peak resident memory of the process of ``vitsd-predict``, in MB."""
    from PIL import Image

    picture = scratch / "picture.png"
    Image.new("L", (640, 480), 90).save(picture)
    code = (
        "import sys; from vitsd_runtime.cli.predict import main; from vitsd_runtime.system.machine import peak_rss_mb; "
        f"main([{str(model)!r}, {str(picture)!r}]); print(peak_rss_mb())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
