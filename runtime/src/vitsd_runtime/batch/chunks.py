"""What a worker does at once: some images, and where they are."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Union

from vitsd_runtime.batch.storage import is_remote, need_pyarrow, open_any, open_remote
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.images.reading import is_url, read_encoded
from vitsd_runtime.system.text import first_line, printable

TABLE_ENDING = ".parquet"
"""Of names of tables, those of the result among them."""
Content = Union[str, bytes, VitsdError]
"""Of an image: its path, its bytes, or why it can't be read."""

_READERS = 8
"""Images of an object store that are read at once: each takes long, and little work."""
_ROWS = 16
"""Of a table that are read at once: images may be large."""
_PIECE = 2**20
"""Bytes that are read at once only to see whether they can be."""


@dataclass(frozen=True)
class Chunk:
    """Images that are answered together, and become one part of the result."""

    names: tuple[str, ...]
    """What the result calls them: paths and URLs, or what a table says."""
    folder: str = ""
    """Path or URL from which relative names lead to the images."""
    table: str = ""
    """Path or URL of the Parquet file that holds the images themselves; "": they are files."""
    column: str = ""
    row_group: int = 0
    rows: tuple[int, ...] = ()
    """Of the row group, one for each name."""

    def to_json(self) -> str:
        """ASCII: names of files need not be valid text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Chunk:
        """What :meth:`to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "names": tuple(fields["names"]), "rows": tuple(fields["rows"])})

    def part(self) -> str:
        """The name of its part of the result: the same for the same images."""
        return f"part-{hashlib.sha256(self.to_json().encode()).hexdigest()[:32]}{TABLE_ENDING}"

    def images(self) -> Iterator[tuple[str, Content]]:
        """Each name with its image, in order; memory does not grow with their number.

        Raises:
            VitsdError: the table can't be read.
        """
        if self.table:
            return zip(self.names, self._from_table())
        places = ((name, self._place(name)) for name in self.names)
        if any(is_remote(self._place(name)) for name in self.names):
            return _read_remote(places)
        return places

    def place(self, i: int) -> str:
        """Where one of the images is, for people and to compare."""
        if self.table:
            return f"row {self.rows[i]} of row group {self.row_group} of {self.table}"
        return self._place(self.names[i])

    def _place(self, name: str) -> str:
        return name if not self.folder or is_url(name) else os.path.join(self.folder, name)

    def _from_table(self) -> Iterator[Content]:
        """The images; where the table is damaged, they and all that come after are errors."""
        read = 0
        try:
            with open_table(self.table) as table:
                values = read_column(table, self.table, self.row_group, self.column, _ROWS)
                wanted = iter((*self.rows, -1))
                row = next(wanted)
                for i, value in enumerate(values):
                    if i == row:
                        yield value.as_py() or VitsdError("The table holds no image here.")
                        read += 1
                        row = next(wanted)
                    if row < 0:
                        return
        except DamagedError as error:
            yield from [error] * (len(self.rows) - read)


class DamagedError(VitsdError):
    """A part of a table can't be understood, now and later."""


@contextlib.contextmanager
def open_table(name: str) -> Iterator[Any]:
    """A ``pyarrow.parquet.ParquetFile``, open.

    Raises:
        VitsdError: it can't be read.
    """
    with open_any(name) as file:
        arrow = need_pyarrow()
        try:
            with arrow.parquet.ParquetFile(file) as table:
                yield table
        except arrow.ArrowException as error:
            raise VitsdError(
                f"{printable(name)} can't be read as a Parquet file: {first_line(error)}"
            ) from error


def read_column(table: Any, name: str, row_group: int, column: str, at_once: int) -> Iterator[Any]:
    """The values of a column in a row group, in order; memory does not grow with their number.

    Args:
        table: of :func:`open_table`.
        name: of the table.
        row_group: which one.
        column: which one.
        at_once: rows that are in memory together.

    Raises:
        DamagedError: its bytes can be read, and make no sense.
        VitsdError: its bytes can't be read.
    """
    arrow = need_pyarrow()
    try:
        for batch in table.iter_batches(
            at_once, row_groups=[row_group], columns=[column], use_threads=False
        ):
            yield from arrow.Table.from_batches([batch]).flatten().column(0)
    except (arrow.ArrowException, OSError) as error:  # which does not tell the one from the other
        _read_bytes(table.metadata.row_group(row_group), name, column)
        raise DamagedError(
            f"{printable(name)} is damaged in its row group {row_group}: {first_line(error)}"
        ) from error


def _read_bytes(row_group: Any, name: str, column: str) -> None:
    """Raise VitsdError if what is stored of a column can't be read."""
    for i in range(row_group.num_columns):
        stored = row_group.column(i)
        if stored.path_in_schema != column:
            continue
        with open_any(name) as file:
            file.seek(max(stored.dictionary_page_offset or stored.data_page_offset, 0))
            remaining = stored.total_compressed_size
            while remaining > 0 and (some := file.read(min(remaining, _PIECE))):
                remaining -= len(some)


def _read_remote(places: Iterator[tuple[str, str]]) -> Iterator[tuple[str, Content]]:
    with ThreadPoolExecutor(_READERS) as readers:
        while some := list(itertools.islice(places, _READERS)):
            yield from zip(
                [name for name, _ in some], readers.map(_content, [place for _, place in some])
            )


def _content(place: str) -> Content:
    if not is_remote(place):
        return place
    try:
        with open_remote(place) as file:
            return read_encoded(file)
    except VitsdError as error:
        return error
