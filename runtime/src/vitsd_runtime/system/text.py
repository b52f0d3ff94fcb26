"""Plain text for terminals: tables, short names, and untrusted names made harmless."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from vitsd_runtime.types import PathLike


def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """A plain table; columns of numbers are right-aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = range(len(headers))
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in columns]
    numeric = [bool(cells) and all(_looks_numeric(row[i]) for row in cells) for i in columns]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *map(line, cells)])


def distinct_names(paths: Iterable[PathLike]) -> list[str]:
    """File names for a table; equal ones with as many of their folders as tell them apart."""
    parts = [Path(path).resolve().parts for path in paths]
    names: list[str] = []
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = [str(Path(*own[-length:])) for own in parts]
        if len(set(names)) == len(set(parts)):
            break
    plain = collections.Counter(own[-1] for own in parts)
    return [own[-1] if plain[own[-1]] == 1 else name for own, name in zip(parts, names)]


def printable(name: str) -> str:
    """A name from an untrusted file, without characters that would steer the terminal."""
    return json.dumps(name)[1:-1]


def _looks_numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "+-" or cell in ("", "n/a")
