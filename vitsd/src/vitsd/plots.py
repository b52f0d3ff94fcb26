"""Pictures of a training run, and of what a model sees: PNG files, drawn without a screen.

Figures are made without ``pyplot``, which would choose a backend for the whole process.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.types import AnyArray, PathLike

if TYPE_CHECKING:
    from vitsd.evaluation.explain import Explanation

_VIEWS = ("image", "left-up", "left-down", "right-up", "right-down")
"""In the order of :attr:`vitsd.evaluation.explain.Explanation.views`."""
MOST_CLASSES = 1000
"""Of more, a confusion matrix can't be read, and takes gigabytes."""
_FEW_CLASSES = 20
"""Up to here a confusion matrix shows its counts."""


def plot_curves(history: Sequence[Mapping[str, float | None]], path: PathLike) -> None:
    """Loss, top-1, top-5 and learning rate over the epochs.

    Args:
        history: rows of ``metrics.csv``, at least one.
        path: of the PNG file.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    panels = (
        ("loss", "Loss", 1),
        ("top1", "Top-1 accuracy (%)", 100),
        ("top5", "Top-5 accuracy (%)", 100),
    )
    epochs = [row["epoch"] for row in history]
    # A line needs two points to be seen.
    style: dict[str, Any] = {"marker": "o" if len(epochs) < 3 else None}
    for axis, (name, title, scale) in zip(axes.flat, panels, strict=False):
        for column, label in ((name, "training"), (f"val_{name}", "validation")):
            values = [row.get(column) for row in history]
            if None not in values:
                axis.plot(epochs, scale * np.array(values), label=label, **style)
        axis.set_title(title)
        axis.legend()
    rates = [row["learning_rate"] for row in history]
    axes[1, 1].plot(epochs, rates, color="tab:green", **style)
    axes[1, 1].set_title("Learning rate at the end of the epoch")
    axes[1, 1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def plot_confusion(matrix: AnyArray, class_names: Sequence[str], path: PathLike) -> None:
    """Confusion matrix, each row in percent of its class.

    Args:
        matrix: counts ``(classes, classes)``, of :data:`MOST_CLASSES` at most, see
            :func:`vitsd.evaluation.metrics.confusion_matrix`.
        class_names: of its rows and columns.
        path: of the PNG file.
    """
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(class_names)
    side = min(16, max(5, 0.28 * count + 2))
    figure = Figure(figsize=(side, side))
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, fraction=0.046, label="% of the class")
    font = 10 if count <= _FEW_CLASSES else 7 if count <= 50 else 5
    names = [_plain(name) for name in class_names]
    axis.set_xticks(range(count), names, rotation=90, fontsize=font)
    axis.set_yticks(range(count), names, fontsize=font)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if count <= _FEW_CLASSES:
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
        for row, column in np.argwhere(matrix > 0):
            color = "white" if share[row, column] > 50 else "black"
            axis.text(column, row, matrix[row, column], color=color, **style)
    _save(figure, path)


def plot_reliability(reports: Mapping[str, Mapping[str, Any]], path: PathLike) -> None:
    """Reliability diagrams side by side: right answers over the probability that a model gave.

    Args:
        reports: by title, what :func:`vitsd.evaluation.metrics.calibration` returns.
        path: of the PNG file.
    """
    figure = Figure(figsize=(4.5 * len(reports), 4.5), layout="constrained")
    axes = figure.subplots(1, len(reports), squeeze=False)
    for axis, (title, report) in zip(axes.flat, reports.items(), strict=True):
        _reliability(axis, title, report)
    _save(figure, path)


def _reliability(axis: Any, title: str, report: Mapping[str, Any]) -> None:
    rows = report["reliability"]
    confidence = [100 * row["confidence"] for row in rows]
    accuracy = [100 * row["accuracy"] for row in rows]
    total = sum(row["images"] for row in rows)
    share = [100 * row["images"] / total for row in rows]
    diagonal = {"color": "gray", "linewidth": 1, "linestyle": "--"}
    axis.plot([0, 100], [0, 100], label="perfect calibration", **diagonal)
    axis.plot(confidence, accuracy, marker="o", label="right answers")
    axis.bar(confidence, share, width=3, alpha=0.3, label="share of the images")
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 100)
    axis.set_xlabel("probability of the answer (%)")
    axis.set_ylabel("%")
    error = 100 * report["ece"]
    axis.set_title(f"{_plain(title)}: expected calibration error {error:.1f} %", fontsize=10)
    axis.legend(fontsize=8, loc="upper left")
    axis.grid(alpha=0.3)


def plot_explanation(explanation: Explanation, path: PathLike) -> None:
    """Patches, attention block by block, temperatures and answer of one image.

    Args:
        explanation: what :func:`vitsd.explain` returns.
        path: of the PNG file.
    """
    blocks = len(explanation.attention)
    columns = max(5, min(blocks, 8))
    rows = -(-blocks // columns)
    figure = Figure(figsize=(1.7 * columns, 2.0 * (2 + 2 * rows)), layout="constrained")
    parts: Any = figure.subfigures(3, 1, height_ratios=[1, 2 * rows, 1.15])
    top, middle, bottom = parts
    _plot_views(top, explanation)
    _plot_attention(middle, explanation, rows, columns)
    left, right = bottom.subplots(1, 2)
    _plot_answer(left, explanation)
    _plot_temperatures(right, explanation)
    _save(figure, path)


def _plot_views(figure: Any, explanation: Explanation) -> None:
    shifted = len(explanation.views) > 1
    title = (
        "What the patches are cut from: the image and its copies, shifted by half a patch"
        if shifted
        else "The image, and the places of its tokens"
    )
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(1, len(explanation.views), squeeze=False)
    for axis, view, name in zip(axes.flat, explanation.views, _VIEWS, strict=False):
        _show(axis, view, grid_lines=explanation.grid)
        axis.set_title(name, fontsize=8)


def _plot_attention(figure: Any, explanation: Explanation, rows: int, columns: int) -> None:
    figure.suptitle(
        "Where attention goes, block by block: mean over heads and tokens (above), and rollout to "
        "the image (below), each from its least (dark) to its most",
        fontsize=10,
    )
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    received = [weights.mean(axis=(0, 1)) for weights in explanation.attention]
    for block, pair in enumerate(zip(received, explanation.rollout, strict=True)):
        row, column = 2 * (block // columns), block % columns
        for axis, values in zip(axes[row : row + 2, column], pair, strict=True):
            _show(axis, explanation.views[0])
            side = math.isqrt(values.size)
            grid = values.reshape(side, side)
            _overlay(axis, grid, explanation.views.shape[1])
        axes[row, column].set_title(f"block {block}", fontsize=8)


def _plot_answer(axis: Any, explanation: Explanation) -> None:
    count = len(explanation.labels)
    axis.barh(range(count), 100 * explanation.probabilities)
    axis.set_yticks(range(count), [_plain(label) for label in explanation.labels], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_title("Answer (%)", fontsize=10)


def _plot_temperatures(axis: Any, explanation: Explanation) -> None:
    temperatures = explanation.temperatures
    if temperatures is None:
        axis.axis("off")
        axis.set_title("Ordinary attention: no learned temperature", fontsize=10)
        return
    count = len(temperatures)
    axis.bar(range(count), temperatures, color="tab:orange")
    axis.axhline(1, color="black", linewidth=1)
    labels = [f"block {i}" for i in range(count)]
    axis.set_xticks(range(count), labels, fontsize=7, rotation=0 if count <= 8 else 90)
    axis.set_title("Learned temperature / initial one (below 1: sharper attention)", fontsize=10)


def _show(axis: Any, image: AnyArray, grid_lines: int = 0) -> None:
    pixels = image if image.shape[2] == 3 else image[..., 0]
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for line in range(1, grid_lines):
        position = line * image.shape[0] / grid_lines - 0.5
        axis.axhline(position, color="white", linewidth=0.4)
        axis.axvline(position, color="white", linewidth=0.4)


def _overlay(axis: Any, values: AnyArray, size: int) -> None:
    """Values of the tokens ``(rows, columns)`` over an image of that size, in pixels."""
    spread = np.ptp(values)
    relative = (values - values.min()) / spread if spread else np.zeros_like(values)
    style: dict[str, Any] = {"cmap": "inferno", "alpha": 0.65, "interpolation": "bilinear"}
    extent = (-0.5, size - 0.5, size - 0.5, -0.5)
    axis.imshow(relative, extent=extent, vmin=0, vmax=1, **style)


def _plain(text: str) -> str:
    """A name that is drawn as it is: what stands between two dollars would be taken for math."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: PathLike) -> None:
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # Of class names in a script that Matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
