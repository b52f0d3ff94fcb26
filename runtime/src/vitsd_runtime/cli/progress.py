"""How far a command is, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from vitsd_runtime.accuracy import LabeledFile


def with_progress(files: Sequence[LabeledFile]) -> Iterator[LabeledFile]:
    """The files; on a terminal, one line counts them."""
    shown = sys.stderr.isatty()
    for number, file in enumerate(files, 1):
        yield file
        if shown and (number % 50 == 0 or number == len(files)):
            end = "\n" if number == len(files) else ""
            print(f"\r{number:,} of {len(files):,} images", end=end, file=sys.stderr, flush=True)
