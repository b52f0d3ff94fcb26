"""What the exporter's commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitsd_runtime.cli.options import flag_of, type_of
from vitsd_runtime.system.text import printable, table
from vitsd_runtime.validation import options

if TYPE_CHECKING:
    from vitsd_export.gate import Comparison


def add_options(parser: argparse.ArgumentParser, declared_in: Any) -> None:
    """Add the options that a dataclass declares (see :mod:`vitsd_runtime.validation`)."""
    for name, declared in options(declared_in):
        flag, text = flag_of(name), declared.help.replace("%", "%%")
        if declared.type is bool:
            parser.add_argument(flag, action="store_true", help=text)
            continue
        default = getattr(declared_in, name)
        parser.add_argument(
            flag,
            type=str if declared.type is str else type_of(declared),
            default=default,
            metavar=None if declared.type is str else "N",
            choices=declared.choices,
            help=f"{text} (default: {'as trained' if default is None else default})",
        )


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """The parity table, what it hides, and on stderr what is beyond the tolerance."""
    from vitsd_export.gate import HEADERS, balance_notes, table_rows

    print(table(table_rows(comparisons), HEADERS))
    for note in balance_notes(comparisons):
        print(note)
    for comparison in comparisons:
        for failure in comparison.failures:
            print(
                f"{printable(comparison.path)} is beyond its tolerance: {failure}", file=sys.stderr
            )
