"""Import time, wheel size, memory, and what ``Classifier`` adds to the bare engine."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from benchmarks.models import export_untrained
from benchmarks.sections import Request, Results
from vitsd_runtime import Classifier, preprocess

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = 15
CALLS = 300


def run(request: Request) -> Results:
    """Measure all of it."""
    scratch = request.scratch
    wheel = _build_wheel(scratch)
    code_bytes = _code_bytes(wheel)
    imports = [_import_seconds() for _ in range(IMPORTS)]
    (small,) = export_untrained("vit-small-ds", scratch, [("tflite", "none")]).values()
    (tiny,) = export_untrained("tiny", scratch, [("tflite", "int8")]).values()
    overhead = _classifier_overhead(small)
    rss = _predict_rss(tiny, scratch)
    return {
        "import_seconds": imports,
        "wheel_bytes": wheel.stat().st_size,
        "wheel_bytes_without_model": code_bytes,
        "predict_peak_rss_mb": rss,
        **overhead,
        "summary": [
            ["import vitsd_runtime, median", f"{np.median(imports):.3f} s", "under 0.15 s"],
            ["wheel without its model", f"{code_bytes / 1000:.1f} kB", "under 300 kB"],
            ["peak RSS of vitsd-predict, tiny int8", f"{rss:.0f} MB", "under 120 MB"],
            [
                "Classifier on top of engine + preprocessing, batch 1, vit-small-ds",
                f"{100 * overhead['classifier_overhead']:+.2f} %",
                "under 10 %",
            ],
        ],
    }


def _build_wheel(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "-w", str(folder), str(ROOT / "runtime")], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _code_bytes(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as archive:
        entries = [entry for entry in archive.infolist() if "/models/" not in entry.filename]
    return sum(entry.compress_size for entry in entries)


def _import_seconds() -> float:
    """What importing the runtime adds to starting Python."""
    empty, full = (_python_seconds(f"import {module}") for module in ("sys", "vitsd_runtime"))
    return full - empty


def _python_seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def _classifier_overhead(model: Path) -> dict[str, float]:
    """``Classifier.logits`` of one image against preprocessing and the interpreter by hand."""
    classifier = Classifier.load(model, num_threads=1)
    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    inputs = interpreter.get_input_details()[0]["index"]
    outputs = interpreter.get_output_details()[0]["index"]
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def by_hand() -> Any:
        interpreter.set_tensor(inputs, preprocess(image[None], classifier.spec))
        interpreter.invoke()
        return interpreter.get_tensor(outputs)

    def with_classifier() -> Any:
        return classifier.logits(image)

    np.testing.assert_allclose(by_hand(), with_classifier(), atol=1e-4)
    bare, ours = _median_ms(by_hand, with_classifier)
    return {
        "engine_and_preprocessing_ms": bare,
        "classifier_ms": ours,
        "classifier_overhead": ours / bare - 1,
    }


def _median_ms(*functions: Callable[[], object]) -> list[float]:
    """Median times of functions that are called in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(CALLS):
        for function, measured in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            measured.append(time.perf_counter() - start)
    return [1e3 * float(np.median(measured)) for measured in times]


def _predict_rss(model: Path, folder: Path) -> float:
    picture = folder / "picture.png"
    Image.new("L", (640, 480), 90).save(picture)
    return peak_rss(model, picture)


def peak_rss(*words: Path) -> float:
    """Peak resident memory of the process of ``vitsd-predict`` with these words, in MB."""
    code = (
        "from vitsd_runtime.cli.predict import main; "
        "from vitsd_runtime.system.machine import peak_rss_mb; "
        f"main({[str(word) for word in words]!r}); print(peak_rss_mb())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])
