"""JSON of every kind: changed values, missing and foreign entries, and text that is hardly JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from tools.fuzz.mutators import raw

_TEXTS = (
    "",
    "x" * 100_000,
    "\x1b[31mred\x1b[0m",
    "two\nlines",
    "\u202egnp.exe",
    "=HYPERLINK(1)",
    "../../x",
    "/",
    "\ud800",
    "\0",
)
_VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": {}}, 10**400, 1e308, 8192, 10**6)
_UNREADABLE = (
    b"",
    b"{",
    b"nul",
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"1" * 5_000,
    b"{}",
)
_NESTED = "deeply nested lists"
"""Stands for them until the text is written."""

Place = tuple[Any, Any]
"""A dictionary or list, and one of its keys."""


def mutate(rng: Random, document: Any) -> bytes:
    """The document with one to three changes, as JSON; now and then no JSON at all."""
    if rng.random() < 0.05:
        return rng.choice(_UNREADABLE)
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if places:
            # Short lists as often as long ones: a spec is mostly class names.
            owners = {id(owner): owner for owner, _ in places}
            owner = rng.choice(list(owners.values()))
            _change(rng, owner, rng.choice([key for o, key in places if o is owner]))
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    depth = rng.choice((50, 900, 5_000, 100_000))
    text = text.replace(f'"{_NESTED}"', "[" * depth + "]" * depth)
    content = text.encode("utf-8", "surrogatepass")
    return raw.mutate(rng, content) if rng.random() < 0.1 else content


def _places(node: Any) -> Iterator[Place]:
    pairs = list(node.items() if isinstance(node, dict) else enumerate(node))
    for key, value in pairs:
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _change(rng: Random, owner: Any, key: Any) -> None:
    value, change = owner[key], rng.random()
    if change < 0.15:
        del owner[key]
    elif change < 0.25:
        owner[key] = _any_value(rng)
    elif change < 0.3:
        owner[key] = _NESTED
    elif isinstance(value, list) and change < 0.7:
        owner[key] = value * rng.choice((0, 2, 1000 if len(value) < 100 else 20))
    elif isinstance(value, dict) and change < 0.7:
        value[rng.choice(_TEXTS)] = _any_value(rng)
    else:
        owner[key] = _like(rng, value)


def _any_value(rng: Random) -> Any:
    return copy.deepcopy(rng.choice(_VALUES))  # a later change may be made in it


def _like(rng: Random, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        third = value / 3 if abs(value) < 2**1000 else 0.0  # 10**400 is no float
        near = (value + 1, value - 1, value * 2, -value, value * 100, third)
        return rng.choice((rng.choice(near), rng.choice(raw.NUMBERS), rng.choice(raw.FLOATS)))
    if isinstance(value, str):
        return rng.choice((rng.choice(_TEXTS), value * 2, value.upper(), value[:-1]))
    return _any_value(rng)
