"""Text of the outside world is safe to show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vitsd_runtime.system.text import MAX_PRINTED, first_line, printable


@given(st.text(st.characters(), max_size=1000))
def test_printable_is_one_short_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= MAX_PRINTED
    if text.isprintable() and len(text) <= MAX_PRINTED:
        assert shown == text


def test_printable_escapes_what_steers_a_terminal() -> None:
    assert printable("a\x1b[2J\n\u202eb\udcff é") == "a\\x1b[2J\\n\\u202eb\\udcff é"


def test_first_line_of_an_error() -> None:
    assert first_line(ValueError("\x1b[1mbad\nweights")) == "\\x1b[1mbad"
    assert first_line(KeyError()) == "KeyError"
