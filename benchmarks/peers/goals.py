"""What is asked of our files in the comparison, and whether it is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.peers.race import ratio, timing

Row = dict[str, Any]
_KERAS_ONNX = "onnxruntime, Keras ONNX"


def judge(model: Row) -> Iterator[list[str]]:
    """Rows: the model, the goal, the ratio with its interval, what is asked, and the verdict."""
    rows = model["rows"]
    for name, batch, own, other, asked in _goals():
        ours, theirs = _fastest(rows, batch, own), _fastest(rows, batch, other)
        if ours is None or theirs is None:
            continue
        found, low, high = ratio(_rounds(theirs, batch), _rounds(ours, batch))
        verdict = "reached" if found >= asked else f"short by {100 * (1 - found / asked):.0f} %"
        shown = f"{found:.2f}x ({low:.2f} to {high:.2f}) {theirs['subject']}"
        yield [model["name"], name, shown, f"{asked}x", verdict]


def _goals() -> Iterator[tuple[str, int, Callable[[Row], bool], Callable[[Row], bool], float]]:
    yield "TFLite int8, batch 1, on the best peer", 1, _named("vitsd TFLite int8"), _peer, 2.0
    yield "our best, batch 32, on the best peer", 32, _ours, _peer, 1.5
    for batch in (1, 32):
        for ours, theirs in (("float32", "float32"), ("dynamic", "dynamic")):
            own, other = _named(f"vitsd ONNX {ours}"), _named(f"{_KERAS_ONNX} {theirs}")
            yield f"ONNX {ours}, batch {batch}, on the plain file", batch, own, other, 1.5


def _named(name: str) -> Callable[[Row], bool]:
    return lambda row: bool(row["subject"] == name)


def _ours(row: Row) -> bool:
    return bool(row["ours"])


def _peer(row: Row) -> bool:
    return not row["ours"]


def _fastest(rows: list[Row], batch: int, wanted: Callable[[Row], bool]) -> Row | None:
    """Of those that answer rightly."""
    found = [row for row in rows if wanted(row) and row["right"] and timing(row, batch)]
    return min(found, key=lambda row: float(timing(row, batch)["p50_ms"]), default=None)


def _rounds(row: Row, batch: int) -> list[float]:
    rounds: list[float] = timing(row, batch)["rounds_ms"]
    return rounds
