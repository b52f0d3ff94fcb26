"""Command-line tools of the exporters."""

from __future__ import annotations

import sys

from vitsd_runtime.system.text import table


def print_comparisons(comparisons) -> None:
    """The parity table, and on stderr what is beyond the tolerance."""
    from vitsd_export.gate import HEADERS, table_rows

    print(table(table_rows(comparisons), HEADERS))
    for comparison in comparisons:
        for failure in comparison.failures:
            print(f"{comparison.path} is beyond its tolerance: {failure}", file=sys.stderr)
