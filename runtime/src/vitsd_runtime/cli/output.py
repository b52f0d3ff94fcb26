"""What ``vitsd-predict`` prints: text, JSON lines or CSV, always whole answers; and notes."""

from __future__ import annotations

import csv
import datetime
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Union

from vitsd_runtime.classifier import Prediction, answer_dict
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.streams import write_whole
from vitsd_runtime.system.text import printable

Answer = Union[Sequence[Prediction], str]
"""The best classes of an image, or why it can't be classified."""
Show = Callable[[str, Answer], None]
"""Prints the answer for the image of a name."""

CSV_COLUMNS = ("image", "rank", "label", "index", "probability", "known", "error")
_FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""The second four are full-width, as spreadsheets of East Asia take them too."""
_PATH_MAX = 2**16
"""Characters: names in CSV are not cut."""


def show_text(name: str, answer: Answer) -> None:
    """One line: ``photo.jpg: cat 93.1 %, dog 4.0 %``. Errors are shown elsewhere."""
    if not isinstance(answer, str):
        write(f"{printable(name)}: {describe(answer)}\n")


def describe(answer: Sequence[Prediction]) -> str:
    """``cat 93.1 %, dog 4.0 %``, or ``don't know (cat 31.0 %, dog 12.0 %)``."""
    classes = ", ".join(f"{printable(p.label)} {100 * p.probability:.1f} %" for p in answer)
    return classes if answer[0].known else f"don't know ({classes})"


def show_json(name: str, answer: Answer) -> None:
    """One JSON object; its strings are exact."""
    write(json.dumps({"image": name, **content(answer)}) + "\n")


def content(answer: Answer) -> dict[str, Any]:
    """What JSON says of an image, beside its name."""
    return {"error": answer} if isinstance(answer, str) else answer_dict(answer)


def answers_path(name: str) -> Path:
    """The file that answers go to.

    Raises:
        UsageError: a folder is there; the name may be empty.
    """
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{printable(name)!r} is a folder: name a file in it.")
    return path


def note(text: str) -> None:
    """Tell on stderr what is no answer, and no error."""
    print(f"vitsd-predict: note: {text}", file=sys.stderr)


def now() -> str:
    """The time of an answer: ISO 8601, UTC, milliseconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def csv_printer() -> Show:
    """Print the header; returns what prints a row for every class of an image, or one error."""
    write(_rows([CSV_COLUMNS]))

    def show(name: str, answer: Answer) -> None:
        image = _cell(name)
        if isinstance(answer, str):
            write(_rows([[image, "", "", "", "", "", _cell(answer)]]))
            return
        known = json.dumps(answer[0].known)
        write(
            _rows(
                [
                    [image, rank, _cell(p.label), p.index, f"{p.probability:.6f}", known, ""]
                    for rank, p in enumerate(answer, 1)
                ]
            )
        )

    return show


def _rows(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(text: str) -> str:
    """Text of the outside world that no spreadsheet takes for a formula."""
    return printable(f"'{text}" if text.startswith(_FORMULA_STARTS) else text, _PATH_MAX)


def write(text: str) -> None:
    """Print whole answers: however the command ends, none is cut off in a file.

    Raises:
        OSError: it could not be written; what was is taken back, where that is possible.
    """
    try:
        file = sys.stdout.fileno()
    except (AttributeError, OSError):  # something in memory stands for it
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    write_whole(file, text.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))
