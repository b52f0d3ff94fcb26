"""Picture of what quantising each layer costs."""

from __future__ import annotations

import os

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no screen is needed
from matplotlib import pyplot as plt

from vitsd_export.quantization.search import Found
from vitsd_runtime.system.files import atomic_write

_COLOURS = {"int4": "tab:red", "static": "tab:blue", "dynamic": "tab:orange", "float": "tab:grey"}


def plot_sensitivity(found: Found, title: str, path: str | os.PathLike) -> None:
    """A bar for each layer: the divergence that it adds when it alone is on the lowest precision.

    Coloured by the precision that it got; thin, what it would be with the worst of the tried ranges.
    """
    names = list(found.divergence)
    best, worst = (np.array([found.added(name)[i] for name in names]) for i in (0, -1))
    # One range that fits nothing must not hide all others.
    limit = 1.1 * max(best.max(), 4 * np.median(worst), 1e-6)
    exponent = int(np.floor(np.log10(limit)))
    best, worst, limit = (value / 10.0**exponent for value in (best, worst, limit))
    chosen = [found.choices[name].precision for name in names]
    colours = [_COLOURS[precision] for precision in chosen]
    figure, axis = plt.subplots(figsize=(8, max(2.5, 0.22 * len(names) + 1.2)))
    places = np.arange(len(names))
    axis.barh(places, worst, height=0.25, color=colours, alpha=0.4)
    axis.barh(places, best, height=0.8, color=colours)
    axis.set_yticks(places, names, fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(min(0, 1.1 * best.min()), limit)
    axis.axvline(0, color="black", linewidth=0.8)
    for place in places[worst > limit]:
        axis.text(limit, place, f" → {worst[place]:.1f}", va="center", fontsize=8)
    axis.set_xlabel(
        f"Kullback-Leibler divergence from the float model that the layer adds alone ($10^{{{exponent}}}$ nats)"
    )
    handles = [plt.Rectangle((0, 0), 1, 1, color=_COLOURS[p]) for p in dict.fromkeys(chosen)]
    handles.append(plt.Rectangle((0, 0), 1, 0.3, color="grey", alpha=0.4))
    labels = [*dict.fromkeys(chosen), "with the worst ranges tried"]
    axis.legend(
        handles,
        labels,
        title="precision in the file",
        loc="center right",
        fontsize=8,
        title_fontsize=8,
    )
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(title, fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
