"""Latency of the exported formats and of the plain graph, batch 1, one thread."""

from __future__ import annotations

from benchmarks.models import export_plain, export_untrained
from benchmarks.sections import Request, Results
from vitsd_runtime.benchmark import measure

PRESETS = ("tiny", "vit-gap-ds", "vit-small-ds")
SECONDS = 3


def run(request: Request) -> Results:
    """Measure each preset's files in turns, and say how much faster than the plain graph."""
    rows = [row for preset in PRESETS for row in _measure(preset, request)]
    return {"results": rows, "summary": [_summarize(row) for row in rows]}


def _measure(preset: str, request: Request) -> list[Results]:
    paths = {**export_plain(preset, request.scratch), **export_untrained(preset, request.scratch)}
    rows = measure(
        list(paths.values()),
        num_threads=1,
        batch_size=1,
        seconds=SECONDS,
        allow_any_operation=True,  # the plain graphs' too
    )
    measured = dict(zip(paths, rows, strict=True))
    for name, row in measured.items():
        plain = measured["plain onnx" if "onnx" in name else "plain tflite"]
        row["preset"], row["name"] = preset, name
        row["bytes"] = paths[name].stat().st_size
        row["faster"] = plain["p50_ms"] / row["p50_ms"]
    return rows


def _summarize(row: Results) -> list[str]:
    figures = f"{row['p50_ms']:.3f} ms, {row['faster']:.2f}x plain, {row['bytes'] / 1e6:.2f} MB"
    return [f"{row['preset']}, {row['name']}", figures, ""]
