"""The pictures of the page, as SVG: one function each."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.peers.race import timing

OURS, PEER, WRONG = "#1f5fa8", "#e0912f", "#cbd2d9"
_PART_COLORS = (
    "#1f5fa8",
    "#6ea8e0",
    "#e0912f",
    "#f3c78b",
    "#1b7a4b",
    "#8cc9a8",
    "#a05195",
    "#cbd2d9",
    "#52606d",
)
_WIDTH = 9.0
_ABOVE: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1),
    "ncols": 4,
    "fontsize": 8,
    "frameon": False,
}
"""Of a legend: beside the picture, where it hides nothing."""
Report = dict[str, Any]


def share_of_limit(row: Report, model: Report, limits: Report, batch: int = 1) -> float:
    """The least time that the core could take, on the time that it took.

    The least: products at the core's rate for their precision (those of attention in float32,
    unless all are bfloat16), or reading the file once from memory, whichever takes longer.
    """
    precision, rates = row["precision"], limits["macs"]
    attention = "bfloat16" if precision == "bfloat16" else "float32"
    macs = model["macs"]
    each = macs["weights"] / rates[precision] + macs["attention"] / rates[attention]
    least = max(batch * each, row["bytes"] / limits["bytes"])
    share: float = 1e3 * least / timing(row, batch)["p50_ms"]
    return share


def draw_all(model: Report, limits: Report) -> Iterator[tuple[str, str]]:
    """Captions and pictures of a model."""
    rows = model["rows"]
    yield "One image, one thread: median; line: p10 to p90.", _svg(_latency(rows, 1))
    batched = [row for row in rows if timing(row, 32)]
    if batched:
        yield "32 images at once, one thread: milliseconds an image.", _svg(_latency(batched, 32))
    if model["labeled"]:
        yield "Accuracy against time; line: nothing is faster and as accurate.", _svg(_pareto(rows))
    if any(timing(row, 1, 2) for row in rows):
        yield "The fastest of each maker: larger batches and a second thread.", _svg(_scaling(rows))
    yield "Size of the file.", _svg(_sizes(rows))
    if model["profiles"]:
        yield "Where the time of one image goes.", _svg(_parts(model["profiles"]))
    caption = (
        "Multiply-adds a second against those for each byte of the file, and the core's limits."
    )
    yield caption, _svg(_roofline(model, limits))


def _color(row: Report) -> str:
    if not row["right"]:
        return WRONG
    return OURS if row["ours"] else PEER


def _latency(rows: Sequence[Report], batch: int) -> Figure:
    rows = sorted(rows, key=lambda row: float(timing(row, batch)["p50_ms"]))
    found = [timing(row, batch) for row in rows]
    p10, p50, p90 = (
        np.array([t[f"{name}_ms"] for t in found]) / batch for name in ("p10", "p50", "p90")
    )
    figure, axis = _bars([row["subject"] for row in rows], p50, [_color(row) for row in rows])
    axis.errorbar(
        p50, range(len(rows)), xerr=[p50 - np.minimum(p10, p50), np.maximum(p90, p50) - p50],
        fmt="none", ecolor="#1f2933", elinewidth=1,
    )  # fmt: skip
    limit = 1.15 * float(np.percentile(p50, 90))
    for place, value in enumerate(p50):
        text = f" {value:.2f}" + (" →" if value > limit else "")
        beside = min(max(value, p90[place]), 0.93 * limit)
        axis.text(beside, place, text, va="center", fontsize=8, backgroundcolor="#ffffffc0")
    axis.set_xlim(0, limit)
    axis.set_xlabel("milliseconds an image")
    return figure


def _sizes(rows: Sequence[Report]) -> Figure:
    rows = sorted(rows, key=lambda row: float(row["bytes"]))
    sizes = [row["bytes"] / 1e6 for row in rows]
    figure, axis = _bars([row["subject"] for row in rows], sizes, [_color(row) for row in rows])
    for place, value in enumerate(sizes):
        axis.text(value, place, f" {value:.2f}", va="center", fontsize=8)
    axis.set_xlabel("MB")
    return figure


def _bars(names: Sequence[str], values: Any, colors: Sequence[str]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.23 * len(names)))
    axis = figure.subplots()
    axis.barh(range(len(names)), values, color=colors, height=0.75)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    handles = [mpl.patches.Patch(color=color) for color in (OURS, PEER, WRONG)]
    axis.legend(handles, ["vitsd", "others", "answers wrongly"], **_ABOVE)
    return figure, axis


def _pareto(rows: Sequence[Report]) -> Figure:
    figure = Figure(figsize=(_WIDTH, 5))
    axis = figure.subplots()
    right = [row for row in rows if row["right"]]
    points = [(float(timing(row, 1)["p50_ms"]), row["top1"], row) for row in right]
    for time, top1, row in points:
        axis.plot(time, top1, "o", color=_color(row))
    front = [p for p in points if not any(q[0] < p[0] and q[1] >= p[1] for q in points)]
    front.sort(key=lambda point: point[0])
    axis.plot([p[0] for p in front], [p[1] for p in front], color="#7b8794", zorder=0)
    # Names in a list, with lines to their points, which lie too close for names of their own.
    for number, (time, top1, row) in enumerate(reversed(front)):
        axis.annotate(
            row["subject"],
            (time, top1),
            (0.4, 0.75 - 0.08 * number),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#7b8794", "linewidth": 0.5},
        )
    axis.set_xscale("log")
    ticks = [0.3, 0.5, 1, 2, 5, 10, 20, 50]
    times = [p[0] for p in points]
    kept = [tick for tick in ticks if min(times) * 0.7 <= tick <= max(times) * 1.5]
    axis.set_xticks(kept, [f"{tick:g}" for tick in kept])
    axis.minorticks_off()
    axis.set_xlabel("milliseconds an image")
    axis.set_ylabel("top-1 accuracy, %")
    axis.grid(alpha=0.3)
    axis.margins(0.12)
    return figure


def _scaling(rows: Sequence[Report]) -> Figure:
    fastest: dict[str, Report] = {}
    for row in sorted(rows, key=lambda row: float(timing(row, 1)["p50_ms"])):
        if row["right"] and timing(row, 1, 2):
            fastest.setdefault(row["group"], row)
    settings = ((1, 1), (1, 2), (32, 1), (32, 2))
    figure = Figure(figsize=(_WIDTH, 1 + 0.75 * len(fastest)))
    axis = figure.subplots()
    for place, row in enumerate(fastest.values()):
        for number, (batch, threads) in enumerate(settings):
            if found := timing(row, batch, threads):
                rate = 1e3 * batch / found["p50_ms"]
                y = place + 0.2 * (number - 1.5)
                axis.barh(y, rate, height=0.18, color=_PART_COLORS[number])
                axis.text(rate, y, f" {rate:,.0f}", va="center", fontsize=7)
    labels = [f"batch {b}, {t} thread{'s' if t > 1 else ''}" for b, t in settings]
    handles = [mpl.patches.Patch(color=_PART_COLORS[i]) for i in range(len(settings))]
    axis.legend(handles, labels, **_ABOVE)
    axis.set_yticks(range(len(fastest)), [row["subject"] for row in fastest.values()], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel("images a second")
    return figure


def _parts(profiles: Report) -> Figure:
    figure = Figure(figsize=(_WIDTH, 1.6 + 0.5 * len(profiles)))
    axis = figure.subplots()
    groups = list(dict.fromkeys(group for parts in profiles.values() for group in parts))
    left = np.zeros(len(profiles))
    for number, group in enumerate(groups):
        values = np.array([max(0.0, parts.get(group, 0.0)) for parts in profiles.values()])
        color = _PART_COLORS[number]
        axis.barh(range(len(values)), values, left=left, color=color, label=group, height=0.6)
        left += values
    axis.set_yticks(range(len(profiles)), list(profiles), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("milliseconds an image")
    axis.legend(**{**_ABOVE, "ncols": 3})
    return figure


def _roofline(model: Report, limits: Report) -> Figure:
    figure = Figure(figsize=(_WIDTH, 5))
    axis = figure.subplots()
    macs = sum(model["macs"].values())
    intensity = np.geomspace(0.5, 5000, 100)
    for number, (name, rate) in enumerate(limits["macs"].items()):
        roof = np.minimum(intensity * limits["bytes"], rate) / 1e9
        axis.plot(intensity, roof, color=_PART_COLORS[2 * number], linewidth=1)
        axis.text(intensity[-1], roof[-1], f" {name}", va="center", fontsize=8)
    # Names for the fastest of ours in each precision; more would hide each other.
    ours = {row["precision"]: row for row in reversed(model["rows"]) if row["ours"]}
    for row in model["rows"]:
        for batch, marker in ((1, "o"), (32, "s")):
            if found := timing(row, batch):
                x = batch * macs / row["bytes"]
                y = batch * macs / found["p50_ms"] / 1e6
                axis.plot(x, y, marker, color=_color(row), markersize=5)
                if row["ours"] and row is ours[row["precision"]]:
                    side = "left" if batch == 1 else "right"
                    beside = 1.1 * x if batch == 1 else x / 1.1
                    axis.text(
                        beside, y, row["subject"], ha=side, va="center", fontsize=7, color=OURS
                    )
    axis.plot([], [], "o", color="#52606d", label="1 image")
    axis.plot([], [], "s", color="#52606d", label="32 images")
    axis.legend(**_ABOVE)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(bottom=8)  # what is slower is no rival
    axis.set_xlabel("multiply-adds for each byte of the file")
    axis.set_ylabel("billion multiply-adds a second")
    axis.grid(alpha=0.3)
    return figure


def _svg(figure: Figure) -> str:
    """The picture with its letters as text, without the XML head."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", bbox_inches="tight")
    text = stream.getvalue()
    return text[text.index("<svg") :]
