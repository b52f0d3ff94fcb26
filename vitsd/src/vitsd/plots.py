"""Pictures of a training run."""

from __future__ import annotations

import os

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no screen is needed
from matplotlib import pyplot as plt

from vitsd_runtime.files import replacing


def _save(figure, path: str | os.PathLike) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    plt.close(figure)


def plot_curves(history: list[dict], path: str | os.PathLike) -> None:
    """Loss, top-1, top-5 and learning rate over the epochs, from the rows of ``metrics.csv``."""
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), constrained_layout=True)
    panels = (("loss", "Loss", 1), ("top1", "Top-1 accuracy (%)", 100), ("top5", "Top-5 accuracy (%)", 100))
    marker = "o" if len(epochs) < 3 else None  # a line needs two points to be seen
    for axis, (name, title, scale) in zip(axes.flat, panels, strict=False):
        axis.plot(epochs, [scale * row[name] for row in history], label="training", marker=marker)
        if history[0].get(f"val_{name}") is not None:
            axis.plot(epochs, [scale * row[f"val_{name}"] for row in history], label="validation", marker=marker)
        axis.set_title(title)
        axis.legend()
    axes[1, 1].plot(epochs, [row["learning_rate"] for row in history], color="tab:green", marker=marker)
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
            axis.text(column, row, matrix[row, column], ha="center", va="center", fontsize=8, color=colour)
    _save(figure, path)
