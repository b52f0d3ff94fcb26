"""``metrics.csv``: one row per epoch."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.system.text import first_line, printable

COLUMNS = (
    "epoch",
    "step",
    "learning_rate",
    "loss",
    "top1",
    "top5",
    "val_loss",
    "val_top1",
    "val_top5",
    "val_balanced_accuracy",
    "seconds",
    "images_per_second",
)
_WHOLE_NUMBERS = ("epoch", "step")

Row = dict[str, float | None]
"""Columns to numbers. Learning rate and step are those at the epoch's end, accuracies are in 0..1,
seconds are of training alone; without a validation split, its columns are None or missing.
``val_balanced_accuracy`` (the mean of the classes' top-1) is there with balanced class weights."""


def write_history(path: Path, history: Sequence[Row]) -> None:
    """Write all rows, the file whole or not at all."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(history)


def read_history(path: Path) -> list[Row]:
    """The rows of a ``metrics.csv``; none if there is no such file.

    Raises:
        VitsdError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        with open(path, newline="") as file:
            return [_numbers(row) for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error) as error:
        raise VitsdError(
            f"{printable(path)} is damaged ({first_line(error)}); delete the run and start anew."
        ) from error


def _numbers(row: dict[str, str]) -> Row:
    numbers: Row = {name: float(text) if text else None for name, text in row.items()}
    return {**numbers, **{name: int(row[name]) for name in _WHOLE_NUMBERS}}
