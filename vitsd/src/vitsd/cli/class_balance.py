"""What a report of accuracy says of its classes, in a line or two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitsd_runtime.accuracy import wilson_interval
from vitsd_runtime.system.text import first_few, printable

_MOST = 0.5
"""From here on a class is answered as another more often than as itself."""


def balance_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a person, only where the accuracy alone would hide something.

    Balanced accuracy where it is another number than the accuracy, classes that were never
    answered, the classes with the lowest recall: of those whose 95 % interval is below the
    accuracy; and classes that are taken for another one.

    Args:
        report: of :func:`vitsd.evaluation.metrics.accuracy_report`.
    """
    if "balanced_accuracy" not in report:  # results of a run that an earlier version finished
        return
    balanced = _percent(report["balanced_accuracy"])
    if balanced != _percent(report["top1"]):
        yield f"Balanced accuracy: {balanced} (mean of the classes' recall)"
    if never := report["never_predicted"]:
        yield f"Never answered: {_some(never, report['classes'])}"
    weak = [row for row in report["per_class"] if _is_weak(row, report["top1"])]
    if weak:
        weak.sort(key=lambda row: row["recall"])
        shown = [f"{printable(row['class'], 80)} {_percent(row['recall'])}" for row in weak]
        yield f"Lowest recall: {_some(shown, report['classes'])}"
    yield from _mistaken_lines(report)


def _mistaken_lines(report: Mapping[str, Any]) -> Iterator[str]:
    mistaken = [
        (printable(pair["class"], 80), printable(pair["answer"], 80), pair["share"])
        for pair in report.get("mistaken", ())
        if pair["class"] not in report["never_predicted"]
    ]
    if not mistaken:
        return
    pairs = [f"{name} for {answer} {_percent(share)}" for name, answer, share in mistaken]
    yield f"Taken for another: {first_few(pairs, limit=200)}"
    name, answer, share = mistaken[0]
    if share > _MOST:
        yield f"Most images of {name} are taken for {answer}: look whether they are labeled right."


def _is_weak(row: Mapping[str, Any], top1: float) -> bool:
    if not row["images"] or row["precision"] is None:  # named as never answered
        return False
    return wilson_interval(round(row["recall"] * row["images"]), row["images"])[1] < top1


def _some(texts: Sequence[str], classes: int) -> str:
    """At most five texts, and how many of all classes they stand for."""
    return f"{first_few(texts, limit=100)} ({len(texts)} of {classes} classes)"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}%"
