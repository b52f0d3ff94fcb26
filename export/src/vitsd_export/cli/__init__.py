"""What the exporter's commands share."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vitsd.cli.options import flag_of
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import table
from vitsd_runtime.validation import options

if TYPE_CHECKING:
    from vitsd_export.gate import Comparison

_PARAMETER = re.compile(r"`(?P<name>\w+)(=(?P<value>[^`]*))?`")
"""In the libraries' messages: a parameter, maybe with a value."""


def add_options(parser: argparse.ArgumentParser, declared_in: Any) -> None:
    """Add the options that a dataclass declares (see :mod:`vitsd_runtime.validation`)."""
    for name, declared in options(declared_in):
        flag = flag_of(name)
        if declared.type is bool:
            parser.add_argument(flag, action="store_true", help=declared.help)
            continue
        default = getattr(declared_in, name)
        parser.add_argument(
            flag,
            type=declared.type,
            default=default,
            metavar=None if declared.type is str else "N",
            choices=declared.choices,
            help=f"{declared.help} (default: {default})",
        )


@contextlib.contextmanager
def options_named(arguments: argparse.Namespace) -> Iterator[None]:
    """Say ``--max-drop`` where an error of the library says ```max_drop```."""
    try:
        yield
    except VitsdError as error:
        known = vars(arguments)

        def flag(found: re.Match[str]) -> str:
            if found["name"] not in known:
                return found[0]
            value = f" {found['value']}" if found["value"] else ""
            return f"{flag_of(found['name'])}{value}"

        error.args = (_PARAMETER.sub(flag, str(error)),)
        raise


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """The parity table, and on stderr what is beyond the tolerance."""
    from vitsd_export.gate import HEADERS, table_rows

    print(table(table_rows(comparisons), HEADERS))
    for comparison in comparisons:
        for failure in comparison.failures:
            print(f"{comparison.path} is beyond its tolerance: {failure}", file=sys.stderr)
