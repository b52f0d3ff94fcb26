"""JSON of others: bounded in size, depth and numbers before anything rests on it."""

from __future__ import annotations

import json
import math
from typing import Any

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.text import first_line, printable, why
from vitsd_runtime.types import PathLike

MAX_DEPTH = 20
"""Lists and objects inside each other; what vitsd writes is 7 deep. Deeper ones end Python's stack
in whatever handles them later."""
_MAX_DIGITS = 40
"""Of a whole number; older Pythons take minutes for one that fills a file."""


def parse_json(content: str | bytes, max_bytes: int) -> Any:
    """Read JSON that may be anyone's.

    Args:
        content: text, or bytes of UTF-8.
        max_bytes: the longest that is read.

    Raises:
        ValueError: not JSON, or beyond a limit; the message, in one line, says why.
    """
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes:,} bytes")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(
            text,
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=_number,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError as error:
        raise ValueError("it is not a text file in UTF-8") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    except ValueError as error:
        raise ValueError(first_line(error)) from error
    _check_depth(value)
    return value


def read_json(
    path: PathLike, what: str, max_bytes: int, error: type[VitsdError] = UsageError
) -> Any:
    """:func:`parse_json` of a file, which may also be a pipe.

    Args:
        path: of the file.
        what: it should be, with its article, for messages.
        max_bytes: as for :func:`parse_json`; no more is read.
        error: raised for whatever is wrong with it.

    Raises:
        UsageError: the file can't be read.
        VitsdError: of type ``error``: it holds something else.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as problem:  # ValueError: a name with a null character
        raise UsageError(f"{printable(path)} can't be read: {why(problem)}.") from problem
    try:
        return parse_json(content, max_bytes)
    except ValueError as problem:
        raise error(f"{printable(path)} is not {what}: {problem}.") from problem


_TOO_DEEP = f"lists or objects are nested more than {MAX_DEPTH} deep"


def _whole_number(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{printable(text, 20)} is not a finite number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has an entry twice")
    return values


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [v for v in level if isinstance(v, (dict, list))]
        if not containers:
            return
        level = [v for c in containers for v in (c.values() if isinstance(c, dict) else c)]
    raise ValueError(_TOO_DEEP)
