"""Latency and memory as a model and its work grow, with fitted exponents and ``growth.png``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.models import Variant, export_model, untrained
from benchmarks.sections import Request, Results, exponent
from vitsd_runtime.benchmark import measure
from vitsd_runtime.system.cores import usable_cores

_PRESET = "vit-edge"
_VARIANTS: tuple[Variant, ...] = (("tflite", "none"), ("tflite", "int8"), ("onnx", "none"))
_MODELS: dict[str, dict[int, dict[str, Any]]] = {
    "tokens": {
        (side // 4) ** 2: {"input_size": (side, side, 3), "image_size": side}
        for side in (16, 32, 64, 96)
    },
    "width": {
        width: {"hidden_dim": width, "key_dim": width // 4, "mlp_units": (3 * width, width)}
        for width in (64, 128, 256, 512)
    },
    "depth": {depth: {"num_layers": depth} for depth in (3, 6, 12, 24)},
}
"""Sizes of the preset, and what of its configuration makes it so large."""
_BATCHES = (1, 2, 4, 8, 16, 32)
_SECONDS = 1.0
_PROGRAM = """
import sys
import numpy as np
from vitsd_runtime import Classifier
from vitsd_runtime.system.machine import peak_rss_mb
before = peak_rss_mb()
model = Classifier.load(sys.argv[1], num_threads=1, batch_size=int(sys.argv[2]))
model.logits(np.zeros((int(sys.argv[2]), *model.spec.input_size), np.uint8))
print(peak_rss_mb() - before)
"""
_ABOVE: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1),
    "fontsize": 7,
    "title_fontsize": 7,
    "alignment": "left",
    "frameon": False,
}
"""Of a legend: beside the picture, where it hides nothing."""
Point = dict[str, Any]
"""``axis``, ``size``, ``kind`` (format and quantization), ``ms`` and maybe ``mb``."""


def run(request: Request) -> Results:
    """Change one size of the model at a time; what is compared runs in turns."""
    points = _measure_all(_export(request.scratch))
    exponents = _fit(points)
    _draw(points, exponents).savefig(request.pictures / "growth.png", dpi=150)
    return {"points": points, "exponents": exponents, "summary": _summarize(exponents)}


def _export(scratch: Path) -> dict[tuple[str, int], dict[str, Path]]:
    """Files by what they are, by the axis and size of their model."""
    files = {}
    for axis, sizes in _MODELS.items():
        for size, changes in sizes.items():
            folder = scratch / f"{axis}-{size}"
            folder.mkdir()
            files[axis, size] = export_model(*untrained(_PRESET, **changes), folder, _VARIANTS)
    return files


def _measure_all(models: Mapping[tuple[str, int], Mapping[str, Path]]) -> list[Point]:
    points: list[Point] = []
    for (axis, size), files in models.items():
        points += _measure(axis, size, files, memory=True)
    files = models["depth", 6]
    for batch in _BATCHES:
        points += _measure("batch", batch, files, batch=batch, memory=True)
    for threads in range(1, usable_cores() + 1):
        points += _measure("threads", threads, files, batch=8, threads=threads)
    return points


def _measure(
    axis: str,
    size: int,
    files: Mapping[str, Path],
    batch: int = 1,
    threads: int = 1,
    memory: bool = False,
) -> list[Point]:
    rows = measure(list(files.values()), num_threads=threads, batch_size=batch, seconds=_SECONDS)
    points = []
    for (kind, path), row in zip(files.items(), rows, strict=True):
        point = {"axis": axis, "size": size, "kind": kind, "ms": row["p50_ms"]}
        if memory:
            words = [sys.executable, "-c", _PROGRAM, str(path), str(batch)]
            point["mb"] = float(subprocess.check_output(words, text=True))
        points.append(point)
    return points


def _fit(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Exponents of time and memory by axis and kind; over the larger half of the sizes.

    What does not grow, such as the engine itself, hides the power at small sizes.
    """
    fits = []
    for axis, kind in dict.fromkeys((point["axis"], point["kind"]) for point in points):
        found = [point for point in points if (point["axis"], point["kind"]) == (axis, kind)]
        for cost in ("ms", "mb"):
            costs = [point[cost] for point in found if cost in point]
            sizes = [point["size"] for point in found if cost in point]
            if len(costs) > 1:
                half = min(len(costs) // 2, len(costs) - 2)
                power = exponent(sizes[half:], costs[half:])
                fits.append({"axis": axis, "kind": kind, "cost": cost, "exponent": power})
    return fits


def _summarize(fits: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for axis, cost in dict.fromkeys((fit["axis"], fit["cost"]) for fit in fits):
        powers = {
            fit["kind"]: fit["exponent"]
            for fit in fits
            if (fit["axis"], fit["cost"]) == (axis, cost)
        }
        figures = ", ".join(f"{kind} {power:.2f}" for kind, power in powers.items())
        name = {"ms": "time", "mb": "memory"}[cost]
        rows.append([f"exponent of {name} over {axis}", figures, ""])
    return rows


def _draw(points: Sequence[Point], fits: Sequence[Mapping[str, Any]]) -> Figure:
    """A column for each axis: time above, memory below."""
    axes = list(dict.fromkeys(point["axis"] for point in points))
    figure = Figure(figsize=(3.2 * len(axes), 6), layout="constrained")
    for column, axis in enumerate(axes):
        for row, cost in enumerate(("ms", "mb")):
            chosen = [fit for fit in fits if (fit["axis"], fit["cost"]) == (axis, cost)]
            if not chosen:
                continue
            panel = figure.add_subplot(2, len(axes), 1 + column + row * len(axes))
            for fit in chosen:
                found = [p for p in points if (p["axis"], p["kind"]) == (axis, fit["kind"])]
                label = f"{fit['kind']} ({fit['exponent']:.2f})"
                sizes = [point["size"] for point in found]
                panel.plot(sizes, [point[cost] for point in found], "o-", ms=4, label=label)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log", base=2)
            panel.set_xticks(sizes, map(str, sizes))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.set_xlabel(axis)
            panel.set_ylabel({"ms": "ms a call", "mb": "MB added to the process"}[cost])
            panel.legend(title="file (exponent)", **_ABOVE)
            panel.grid(alpha=0.3)
    return figure
