"""Picture of what quantising each layer costs."""

from __future__ import annotations

import os

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no screen is needed
from matplotlib import pyplot as plt

from vitsd_export.budget import Found
from vitsd_runtime.files import replacing

_COLOURS = {"int4": "tab:red", "static": "tab:blue", "dynamic": "tab:orange", "float": "tab:grey"}


def plot_sensitivity(found: Found, title: str, path: str | os.PathLike) -> None:
    """A bar for each layer: divergence with it alone on the lowest precision; coloured by the precision that it got."""
    names = list(found.divergence)
    values = [max(min(found.divergence[name].values()), 1e-8) for name in names]
    chosen = [found.choices[name].precision for name in names]
    figure, axis = plt.subplots(figsize=(8, max(2.5, 0.22 * len(names) + 1.2)))
    places = np.arange(len(names))
    axis.barh(places, values, color=[_COLOURS[precision] for precision in chosen])
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("Kullback-Leibler divergence from the float model (nats)")
    if found.baseline > 0:
        axis.axvline(found.baseline, color="black", linestyle="--", linewidth=1)
    handles = [plt.Rectangle((0, 0), 1, 1, color=_COLOURS[p]) for p in dict.fromkeys(chosen)]
    labels = list(dict.fromkeys(chosen))
    if found.baseline > 0:
        handles.append(plt.Line2D([], [], color="black", linestyle="--"))
        labels.append("before any of these changes")
    axis.legend(handles, labels, title="precision in the file", loc="upper right", fontsize=8, title_fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
