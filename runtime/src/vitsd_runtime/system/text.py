"""Plain text for terminals: tables, short names, and untrusted names made harmless."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from pathlib import Path

from vitsd_runtime.types import PathLike

DEBUG = "VITSD_DEBUG"
"""Environment variable: if it is set, every error comes with its traceback."""
MAX_PRINTED = 300
"""Characters of somebody else's text that are worth reading."""
_ELLIPSIS = "..."


def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """A plain table of :func:`printable` cells; columns of numbers are right-aligned."""
    cells = [[printable(cell) for cell in row] for row in rows]
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


def printable(text: object, limit: int = MAX_PRINTED) -> str:
    r"""Text of the outside world, safe to show: one line, cut at ``limit`` characters.

    For whatever this program did not write itself: names of files and classes, messages of other
    libraries, JSON of others. Line ends, escape sequences, characters that reverse the direction
    of writing, and bytes that are no text appear as escapes (``\n``, ``\x1b``, ``\u202e``).
    """
    shown = str(text)
    cut = len(shown) > limit
    shown = shown[: limit - len(_ELLIPSIS)] if cut else shown
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else _escape(c) for c in shown)
    return shown[: limit - len(_ELLIPSIS)] + _ELLIPSIS if cut or len(shown) > limit else shown


def first_few(names: Sequence[str], limit: int = 50) -> str:
    """At most five names of the outside world, for a message; ``limit`` characters of each."""
    shown = ", ".join(printable(name, limit) for name in names[:5])
    return f"{shown} ..." if len(names) > 5 else shown


def first_line(error: BaseException) -> str:
    """The first line of another library's error message, :func:`printable`.

    The name of the error's type where the message is empty.
    """
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])


def unforeseen(error: BaseException) -> str:
    """What is said of an error that is nobody's but ours."""
    return (
        f"{type(error).__name__}: {first_line(error)} (nobody foresaw this: please report it, with "
        f"what {DEBUG}=1 in the environment adds)"
    )


def why(error: BaseException) -> str:
    """Why a file can't be read: the system's words for it, else the error's :func:`first_line`."""
    return getattr(error, "strerror", None) or first_line(error)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _looks_numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "+-" or cell in ("", "n/a")
