"""Options are checked where they are made, and name themselves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vitsd_runtime import UsageError, VitsdError
from vitsd_runtime.validation import Option, option, optional, options, validate


@dataclass(frozen=True)
class Example:
    count: int = option(3, "how many", at_least=1)
    share: float = option(0.5, "how much", at_least=0, below=1)
    rate: float = option(0.1, "how fast", above=0)
    units: tuple[int, ...] = option((1, 2), "sizes", at_least=1, at_most=9)
    kind: str = option("a", "which", choices=("a", "b"))
    on: bool = option(True, "whether")
    most: int | None = optional(Option("how many at most", int, at_least=1))

    def __post_init__(self):
        validate(self)


def test_lists_and_whole_numbers_are_taken_for_what_they_mean():
    example = Example(share=0, units=[4, 5])
    assert example == Example(share=0.0, units=(4, 5))
    assert isinstance(example.share, float)
    assert [name for name, _ in options(Example)] == "count share rate units kind on most".split()


def test_optional_ones_may_be_left_out():
    assert Example().most is None
    assert Example(most=2).most == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count must be at least 1; got 0"),
        ({"count": True}, "count must be of type int"),
        ({"count": 2.0}, "count must be of type int"),
        ({"share": 1}, r"share must be in \[0, 1\); got 1"),
        ({"share": float("nan")}, "share must be of type float"),
        ({"share": 10**400}, "share must be of type float"),
        ({"rate": 0}, "rate must be above 0"),
        ({"rate": float("inf")}, "rate must be of type float"),
        ({"units": (1, 10)}, "units must be from 1 to 9"),
        ({"units": "12"}, "units must be of type tuple of int"),
        ({"units": (1.5,)}, "units must be of type tuple of int"),
        ({"kind": "c"}, "kind must be one of a, b; got 'c'"),
        ({"kind": None}, "kind must be of type str"),
        ({"on": 1}, "on must be of type bool"),
        ({"most": 0}, "most must be at least 1; got 0"),
        ({"most": 1.5}, "most must be of type int"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(UsageError, match=message):
        Example(**values)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("count", "1e3", "must be a whole number at least 1; got '1e3'"),
        ("count", "0", "must be a whole number at least 1; got '0'"),
        ("rate", "inf", "must be a number above 0; got 'inf'"),
        ("rate", "nan", "must be a number above 0; got 'nan'"),
        ("share", "x\x1b", r"must be a number in \[0, 1\); got 'x\\x1b'"),
        ("count", "9" * 9999, "must be a whole number at least 1; got '9{70}"),
    ],
)
def test_texts_are_read_as_the_option_says(field, text, message):
    declared = dict(options(Example))[field]
    assert declared.parse("3" if field == "count" else "0.5") in (3, 0.5)
    with pytest.raises(UsageError, match=message) as error:
        declared.parse(text)
    assert len(str(error.value)) < 200


def test_a_value_of_thousands_is_not_repeated():
    with pytest.raises(UsageError) as error:
        Example(units=[10] * 100_000)
    assert len(str(error.value)) < 200


def test_misuse_is_a_value_error_too():
    assert issubclass(UsageError, ValueError)
    assert issubclass(UsageError, VitsdError)
