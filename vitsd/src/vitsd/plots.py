"""Pictures of a training run, and of what a model sees."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no screen is needed
from matplotlib import pyplot as plt

from vitsd_runtime.system.files import atomic_write

if TYPE_CHECKING:
    from vitsd.evaluation.explain import Explanation


def _save(figure, path: str | os.PathLike) -> None:
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # of class names in a script that Matplotlib's font lacks
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    plt.close(figure)


def plot_curves(history: list[dict], path: str | os.PathLike) -> None:
    """Loss, top-1, top-5 and learning rate over the epochs, from the rows of ``metrics.csv``."""
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), constrained_layout=True)
    panels = (
        ("loss", "Loss", 1),
        ("top1", "Top-1 accuracy (%)", 100),
        ("top5", "Top-5 accuracy (%)", 100),
    )
    marker = "o" if len(epochs) < 3 else None  # a line needs two points to be seen
    for axis, (name, title, scale) in zip(axes.flat, panels, strict=False):
        axis.plot(epochs, [scale * row[name] for row in history], label="training", marker=marker)
        if history[0].get(f"val_{name}") is not None:
            axis.plot(
                epochs,
                [scale * row[f"val_{name}"] for row in history],
                label="validation",
                marker=marker,
            )
        axis.set_title(title)
        axis.legend()
    axes[1, 1].plot(
        epochs, [row["learning_rate"] for row in history], color="tab:green", marker=marker
    )
    axes[1, 1].set_title("Learning rate at the end of the epoch")
    axes[1, 1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def plot_confusion(matrix: np.ndarray, class_names, path: str | os.PathLike) -> None:
    """Confusion matrix, each row in percent of its class."""
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(class_names)
    side = min(16, max(5, 0.28 * count + 2))
    figure, axis = plt.subplots(figsize=(side, side))
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, fraction=0.046, label="% of the class")
    font = 10 if count <= 20 else 7 if count <= 50 else 5
    axis.set_xticks(range(count), class_names, rotation=90, fontsize=font)
    axis.set_yticks(range(count), class_names, fontsize=font)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if count <= 20:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if share[row, column] > 50 else "black"
            axis.text(
                column, row, matrix[row, column], ha="center", va="center", fontsize=8, color=colour
            )
    _save(figure, path)


def plot_reliability(reports: dict[str, dict], path: str | os.PathLike) -> None:
    """Reliability diagrams, one beside the other: right answers over the probability that the model gave.

    Args:
        reports: a title to what :func:`vitsd.evaluation.metrics.calibration` returns.
    """
    figure, axes = plt.subplots(
        1, len(reports), figsize=(4.5 * len(reports), 4.5), squeeze=False, constrained_layout=True
    )
    for axis, (title, report) in zip(axes.flat, reports.items(), strict=True):
        rows = report["reliability"]
        total = sum(row["images"] for row in rows)
        x, y = ([100 * row[key] for row in rows] for key in ("confidence", "accuracy"))
        axis.plot(
            [0, 100],
            [0, 100],
            color="grey",
            linewidth=1,
            linestyle="--",
            label="probabilities as they should be",
        )
        axis.plot(x, y, marker="o", label="right answers")
        axis.bar(
            x,
            [100 * row["images"] / total for row in rows],
            width=3,
            alpha=0.3,
            label="share of the images",
        )
        axis.set_xlim(0, 100)
        axis.set_ylim(0, 100)
        axis.set_xlabel("probability of the answer (%)")
        axis.set_ylabel("%")
        axis.set_title(
            f"{title}: expected calibration error {100 * report['ece']:.1f} %", fontsize=10
        )
        axis.legend(fontsize=8, loc="upper left")
        axis.grid(alpha=0.3)
    _save(figure, path)


def plot_explanation(explanation: Explanation, path: str | os.PathLike) -> None:
    """Patches, attention block by block, temperatures and answer of one image."""
    depth, grid = len(explanation.attention), explanation.grid
    columns = max(6, min(depth, 8))
    block_rows = -(-depth // columns)
    figure = plt.figure(
        figsize=(1.7 * columns, 2.0 * (2 + 2 * block_rows)), constrained_layout=True
    )
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1, 2 * block_rows, 1.15])

    names = ["image", "left-up", "left-down", "right-up", "right-down"]
    top.suptitle(
        "What the patches are cut from: the image and its copies, shifted by half a patch",
        fontsize=10,
    )
    for axis, view, name in zip(
        np.atleast_1d(top.subplots(1, len(explanation.views))),
        explanation.views,
        names,
        strict=False,
    ):
        _show(axis, view, grid_lines=grid)
        axis.set_title(name, fontsize=8)

    middle.suptitle(
        "Where attention goes, block by block: mean over heads and tokens (above), and rollout to the image (below), each "
        "from its least (dark) to its most",
        fontsize=10,
    )
    axes = middle.subplots(2 * block_rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    received = explanation.attention.mean(axis=(1, 2))
    for i in range(depth):
        row, column = 2 * (i // columns), i % columns
        for axis, values in (
            (axes[row, column], received[i]),
            (axes[row + 1, column], explanation.rollout[i]),
        ):
            _show(axis, explanation.views[0])
            _overlay(axis, values.reshape(grid, grid), explanation.views.shape[1])
        axes[row, column].set_title(f"block {i}", fontsize=8)

    left, right = bottom.subplots(1, 2)
    count = len(explanation.labels)
    left.barh(range(count), 100 * explanation.probabilities)
    left.set_yticks(range(count), explanation.labels, fontsize=8)
    left.invert_yaxis()
    left.set_xlim(0, 100)
    left.set_title("Answer (%)", fontsize=10)
    if explanation.temperatures is None:
        right.axis("off")
        right.set_title("Ordinary attention: no learned temperature", fontsize=10)
    else:
        right.bar(range(depth), explanation.temperatures, color="tab:orange")
        right.axhline(1, color="black", linewidth=1)
        right.set_xticks(
            range(depth),
            [f"block {i}" for i in range(depth)],
            fontsize=7,
            rotation=0 if depth <= 8 else 90,
        )
        right.set_title(
            "Learned temperature / initial one (below 1: sharper attention)", fontsize=10
        )
    _save(figure, path)


def _show(axis, image: np.ndarray, grid_lines: int = 0) -> None:
    axis.imshow(
        image if image.shape[2] == 3 else image[..., 0],
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axis.set_xticks([])
    axis.set_yticks([])
    for line in range(1, grid_lines):
        position = line * image.shape[0] / grid_lines - 0.5
        axis.axhline(position, color="white", linewidth=0.4)
        axis.axvline(position, color="white", linewidth=0.4)


def _overlay(axis, values: np.ndarray, size: int) -> None:
    spread = np.ptp(values)
    relative = (values - values.min()) / spread if spread else np.zeros_like(values)
    extent = (-0.5, size - 0.5, size - 0.5, -0.5)
    axis.imshow(
        relative,
        cmap="inferno",
        alpha=0.65,
        extent=extent,
        interpolation="bilinear",
        vmin=0,
        vmax=1,
    )
