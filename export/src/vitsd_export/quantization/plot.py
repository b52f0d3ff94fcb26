"""Picture of what quantizing each layer costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitsd_export.quantization.schemes import Precision
from vitsd_export.quantization.search import SearchResult
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.types import FloatArray, PathLike

_COLORS: dict[Precision, str] = {
    "int4": "tab:red",
    "static": "tab:blue",
    "dynamic": "tab:orange",
    "float": "tab:gray",
}
_OTHER_COLOR = "tab:green"


@dataclass(frozen=True)
class _Bars:
    """Lengths of the bars, in units of a power of ten."""

    best: FloatArray
    worst: FloatArray
    limit: float
    exponent: int


def plot_sensitivity(result: SearchResult, title: str, path: PathLike) -> None:
    """A bar for each layer: the divergence that it adds when it alone is on the lowest precision.

    Colored by the precision that it got; thin, what it would be with the worst of the tried ranges.

    Args:
        result: of a search that measured something.
        title: of the picture.
        path: a PNG file.
    """
    names = list(result.sensitivity)
    precisions = [result.choices[name].precision for name in names]
    bars = _bars(result, names)
    figure = Figure(figsize=(8, max(2.5, 0.22 * len(names) + 1.2)))
    axis = figure.subplots()
    _draw_bars(axis, bars, precisions)
    axis.set_yticks(np.arange(len(names)), names, fontsize=8)
    axis.set_xlabel(
        "Kullback-Leibler divergence from the float model that the layer adds alone "
        f"($10^{{{bars.exponent}}}$ nats)"
    )
    _add_legend(axis, list(dict.fromkeys(precisions)))
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(title, fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")


def _bars(result: SearchResult, names: Sequence[str]) -> _Bars:
    best, worst = (np.array([result.added(name)[i] for name in names]) for i in (0, -1))
    # One range that fits nothing must not hide all others.
    limit = 1.1 * max(best.max(), 4 * np.median(worst), 1e-6)
    exponent = int(np.floor(np.log10(limit)))
    unit = 10.0**exponent
    return _Bars(best / unit, worst / unit, limit / unit, exponent)


def _draw_bars(axis: Any, bars: _Bars, precisions: Sequence[Precision]) -> None:
    places = np.arange(len(precisions))
    colors = [_COLORS.get(precision, _OTHER_COLOR) for precision in precisions]
    axis.barh(places, bars.worst, height=0.25, color=colors, alpha=0.4)
    axis.barh(places, bars.best, height=0.8, color=colors)
    axis.set_ylim(len(places) - 0.5, -0.5)
    axis.set_xlim(min(0, 1.1 * bars.best.min()), bars.limit)
    axis.axvline(0, color="black", linewidth=0.8)
    for place in places[bars.worst > bars.limit]:
        text = f" → {bars.worst[place]:.1f}"
        axis.text(bars.limit, place, text, va="center", fontsize=8)


def _add_legend(axis: Any, precisions: Sequence[Precision]) -> None:
    colors = [_COLORS.get(precision, _OTHER_COLOR) for precision in precisions]
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in colors]
    handles.append(Rectangle((0, 0), 1, 0.3, color="gray", alpha=0.4))
    axis.legend(
        handles,
        [*precisions, "with the worst ranges tried"],
        title="precision in the file",
        loc="center right",
        fontsize=8,
        title_fontsize=8,
    )
