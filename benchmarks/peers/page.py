"""One HTML page with the comparison, its pictures inside: it needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.peers import pictures
from benchmarks.peers.race import timing
from vitsd_runtime.system.files import atomic_write

Report = dict[str, Any]
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 66rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #d9e2ec; }
td { white-space: nowrap; } th:first-child, td:first-child, .text :is(th, td) { text-align: left; }
.ours { font-weight: 600; color: #1f5fa8; } .wrong { color: #9aa5b1; }
figure { margin: 1.5rem 0; } figcaption { color: #52606d; font-size: 14px; }
svg { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
"""


def write_page(report: Report, path: Path) -> None:
    """Write the page.

    Args:
        report: of :mod:`benchmarks.peers.run`.
        path: of the HTML file.
    """
    machine = report["machine"]
    body = [
        "<h1>vitsd beside what else one would use</h1>",
        f"<p>{escape(machine['cpu'])}, {machine['cores']} cores, {escape(machine['system'])}, "
        f"Python {escape(machine['python'])}; {report['date']}; "
        f"<code>{escape(report['command'])}</code>. All files of a model hold the same weights. "
        "They ran in turns, each bound to its cores while all others waited.</p>",
        "<h2>Goals</h2>",
        '<div class="wide text">',
        _table(["model", "goal", "measured (95 %)", "asked", ""], report["goals"]),
        "</div>",
        _limits(report),
        *(_model(model, report) for model in report["models"]),
        *_missing(report["missing"]),
    ]
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>vitsd: comparison</title>\
<meta name=viewport content='width=device-width'><style>{_STYLE}</style>{''.join(body)}</html>\n"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _limits(report: Report) -> str:
    limits = report["limits"]
    rows = [[name, f"{macs / 1e9:.0f} billion/s"] for name, macs in limits["macs"].items()]
    rows.append(["reading memory", f"{limits['bytes'] / 1e9:.1f} GB/s"])
    rows.append(["reading the second-level cache", f"{limits['bytes_cached'] / 1e9:.0f} GB/s"])
    what = f"one core, multiply-adds of large matrices by {limits['products_by']}"
    return f"<h2>The limit</h2><p>Measured in this run: {what}.</p>{_table(['', ''], rows)}"


def _model(model: Report, report: Report) -> str:
    figures = pictures.draw_all(model, report["limits"])
    drawn = "".join(
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, svg in figures
    )
    head = [
        "file", "MB", "1 image, ms", "p10 to p90", "32 images, ms each", "top-1 %",
        "change (95 %), points", "agrees %", "of the limit",
    ]  # fmt: skip
    rows = [_row(row, model, report["limits"]) for row in model["rows"]]
    classes = [_class(row) for row in model["rows"]]
    said = "labeled test images" if model["labeled"] else "images at random"
    macs = sum(model["macs"].values())
    return (
        f"<h2>{escape(model['name'])}</h2><p>{model['weights']:,} weights, {macs:,} multiply-adds "
        f"an image. Answers to {model['images']:,} {said}. Gray: answers that differ too much "
        f"to count.</p>{drawn}<div class=wide>{_table(head, rows, classes)}</div>"
        f"{_skipped(model['skipped'])}"
    )


def _row(row: Report, model: Report, limits: Report) -> list[str]:
    single, many = timing(row, 1), timing(row, 32)
    change = row.get("top1_change")
    return [
        row["subject"],
        f"{row['bytes'] / 1e6:.2f}",
        f"{single['p50_ms']:.3f}",
        f"{single['p10_ms']:.3f} to {single['p90_ms']:.3f}",
        f"{many['p50_ms'] / 32:.3f}" if many else "",
        f"{row['top1']:.2f}" if change else "",
        "{:+.2f} ({:+.2f} to {:+.2f})".format(*change) if change else "",
        f"{100 * row['agreement']:.1f}",
        f"{100 * pictures.share_of_limit(row, model, limits):.0f} %",
    ]


def _class(row: Report) -> str:
    if not row["right"]:
        return "wrong"
    return "ours" if row["ours"] else ""


def _skipped(skipped: Report) -> str:
    if not skipped:
        return ""
    rows = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in skipped.items())
    return f"<p>Left out, because they failed:</p><ul>{rows}</ul>"


def _missing(missing: Report) -> list[str]:
    if not missing:
        return []
    rows = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in missing.items())
    return [f"<h2>Not installed</h2><ul>{rows}</ul>"]


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] | None = None
) -> str:
    def line(cells: Sequence[str], tag: str, name: str = "") -> str:
        return f"<tr class='{name}'>" + "".join(f"<{tag}>{escape(c)}" for c in cells)

    names = classes or [""] * len(rows)
    body = "".join(line(row, "td", name) for row, name in zip(rows, names, strict=True))
    return f"<table>{line(head, 'th')}{body}</table>"
