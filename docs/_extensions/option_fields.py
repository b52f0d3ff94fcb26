"""Show what ``vitsd_runtime.validation.option`` declares as the parameters of a dataclass."""

from __future__ import annotations

import dataclasses
from typing import Any

from sphinx.application import Sphinx

from vitsd_runtime.validation import Option, options

_AFTER_NAPOLEON = 900


def add_options(
    app: Sphinx, what: str, name: str, item: Any, settings: Any, lines: list[str]
) -> None:
    """Append one ``:param:`` for each declared option of a class to its docstring."""
    if what == "class" and dataclasses.is_dataclass(item):
        described = [f":param {field}: {_describe(option)}" for field, option in options(item)]
        lines.extend(["", *described] if described else [])


def _describe(option: Option) -> str:
    limits = option.choices and ", ".join(option.choices)
    bounds = (
        ("at least", option.at_least),
        ("above", option.above),
        ("at most", option.at_most),
        ("below", option.below),
    )
    numbers = " and ".join(f"{word} {limit:g}" for word, limit in bounds if limit is not None)
    extra = "; ".join(text for text in (limits, numbers) if text)
    return f"{option.help} ({option.type.__name__}{', ' if extra else ''}{extra})"


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect it."""
    app.connect("autodoc-process-docstring", add_options, priority=_AFTER_NAPOLEON)
    return {"parallel_read_safe": True}
