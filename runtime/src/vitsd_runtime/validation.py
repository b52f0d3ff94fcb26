"""Options that say what values they take: one declaration gives checks, help texts and arguments.

A frozen dataclass declares its fields with :func:`option` or :func:`optional`, and calls
:func:`validate` when it is made. Its values may come from a command line or out of an untrusted
file.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vitsd_runtime.errors import UsageError
from vitsd_runtime.types import ValueRange

_METADATA = "vitsd.option"


@dataclass(frozen=True)
class Option:
    """What a field may hold; its type is that of its default."""

    help: str
    type: type
    """int, float, bool, str, or tuple (of whole numbers)."""
    choices: tuple[str, ...] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def check(self, name: str, value: Any) -> Any:
        """The value as the field holds it: lists become tuples, whole numbers floats.

        Raises:
            UsageError: the value is of another type, or out of range.
        """
        value = self._typed(name, value)
        if self.choices is not None and value not in self.choices:
            raise UsageError(f"{name} must be one of {', '.join(self.choices)}; got {value!r:.80}.")
        values = value if isinstance(value, tuple) else (value,)
        if not all(map(self._in_range, values)):
            raise UsageError(f"{name} must be {self._range()}; got {value!r:.80}.")
        return value

    def parse(self, text: str) -> Any:
        """The value that a text on a command line means; for options of one number.

        Raises:
            UsageError: it is no number, or out of range; says what is taken.
        """
        try:
            return self.check("it", self.type(text))
        except ValueError as error:
            kind = "a whole number" if self.type is int else "a number"
            raise UsageError(f"must be {kind} {self._range()}; got {text!r:.80}") from error

    def _typed(self, name: str, value: Any) -> Any:
        typed = _CONVERTERS[self.type](value)
        if typed is None:
            expected = "tuple of int" if self.type is tuple else self.type.__name__
            raise UsageError(f"{name} must be of type {expected}; got {value!r:.80}.")
        return typed

    def _in_range(self, number: Any) -> bool:
        return not (
            (self.at_least is not None and number < self.at_least)
            or (self.above is not None and number <= self.above)
            or (self.at_most is not None and number > self.at_most)
            or (self.below is not None and number >= self.below)
        )

    def _range(self) -> str:
        low = self.at_least if self.at_least is not None else self.above
        high = self.at_most if self.at_most is not None else self.below
        if low is None or high is None:
            bounds = (
                ("at least", self.at_least),
                ("above", self.above),
                ("at most", self.at_most),
                ("below", self.below),
            )
            given = (f"{word} {_readable(limit)}" for word, limit in bounds if limit is not None)
            return " and ".join(given)
        if self.at_least is not None and self.at_most is not None:
            return f"from {_readable(low)} to {_readable(high)}"
        left = "[" if self.at_least is not None else "("
        right = "]" if self.at_most is not None else ")"
        return f"in {left}{low:g}, {high:g}{right}"


def option(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field with a default, a help text, and the limits of :class:`Option`."""
    metadata = {_METADATA: Option(help=help, type=type(default), **limits)}
    return dataclasses.field(default=default, metadata=metadata)


def optional(declared: Option) -> Any:
    """A dataclass field that is None unless it is given, and then as ``declared`` says."""
    return dataclasses.field(default=None, metadata={_METADATA: declared})


def options(cls: Any) -> Iterator[tuple[str, Option]]:
    """Names and declarations of a dataclass's options, in order."""
    for field in dataclasses.fields(cls):
        if _METADATA in field.metadata:
            yield field.name, field.metadata[_METADATA]


def validate(instance: Any) -> None:
    """Check every option of a frozen dataclass, for use in its ``__post_init__``.

    Raises:
        UsageError: a value is of another type, or out of range; names the option.
    """
    for name, declared in options(type(instance)):
        value = getattr(instance, name)
        if value is not None or getattr(type(instance), name) is not None:
            object.__setattr__(instance, name, declared.check(name, value))


REDUCING_GAP = Option(
    "JPEGs are decoded at a scale that leaves their shorter side this many times the size of the "
    "images",
    float,
    at_least=1,
    at_most=64,
)


def check_value_range(value: Any) -> ValueRange:
    """Two rising numbers, as floats.

    Raises:
        UsageError: it is something else.
    """
    try:
        low, high = map(float, value)
    except (TypeError, ValueError, OverflowError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise UsageError(f"value_range must be two rising numbers; got {value!r:.80}.")
    return low, high


def _readable(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def _to_int(value: Any) -> int | None:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return int(value) if whole else None


def _to_float(value: Any) -> float | None:
    number = value if isinstance(value, float) else _to_int(value)
    try:
        return float(number) if number is not None and math.isfinite(number) else None
    except OverflowError:  # a whole number with hundreds of digits
        return None


def _to_ints(value: Any) -> tuple[int, ...] | None:
    whole = isinstance(value, (list, tuple)) and None not in map(_to_int, value)
    return tuple(value) if whole else None


_CONVERTERS: dict[type, Callable[[Any], Any]] = {
    int: _to_int,
    float: _to_float,
    tuple: _to_ints,
    bool: lambda value: value if isinstance(value, bool) else None,
    str: lambda value: value if isinstance(value, str) else None,
}
"""From a value to what a field of a type holds; None if it is of another type."""
