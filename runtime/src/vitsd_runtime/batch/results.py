"""The result: a folder of Parquet files, each whole and written once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vitsd_runtime.batch.answers import Row
from vitsd_runtime.batch.chunks import TABLE_ENDING, open_table
from vitsd_runtime.batch.storage import (
    explained,
    is_file,
    locate,
    names_in,
    need_pyarrow,
    open_any,
    remove_folder,
)
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.system.text import printable, why

_METADATA = b"vitsd"
_TRIES = "_tries"
"""A folder for what :mod:`vitsd_runtime.batch.work` notes; readers of tables pass over it."""


class Results:
    """Parts of a table in a folder, here or in an object store; picklable.

    Args:
        folder: path or URL.
        made_with: what all parts must have been made with.
    """

    def __init__(self, folder: str, made_with: Mapping[str, Any]) -> None:
        self.folder = folder.rstrip("/") if locate(folder).system else locate(folder).path
        self._made_with = json.dumps(made_with, sort_keys=True)

    def done(self) -> set[str]:
        """The names of all images that have a row.

        Raises:
            UsageError: the folder holds something else, or what was made with something else.
            VitsdError: it can't be read.
        """
        return {name for part in self._parts() for name in self._names(part)}

    def begin(self) -> None:
        """Before long work, raise what :meth:`write` would raise.

        Raises:
            VitsdError: nothing can be written there.
        """
        try:
            self._put(f"{_TRIES}/begin", b"")
        except UsageError:
            raise
        except VitsdError as error:
            raise VitsdError(
                f"The result can't be written to {printable(self.folder)}: "
                f"{why(error.__cause__ or error)}. Name another folder with `output`."
            ) from error

    def counts(self, part: str) -> tuple[int, int] | None:
        """Images and errors in a part; None if it is not there."""
        if not is_file(self._path(part)):
            return None
        with open_table(self._path(part)) as table:
            errors = table.read(["error"]).column(0)
        return len(errors), len(errors) - errors.null_count

    def write(self, part: str, rows: Iterable[Row]) -> tuple[int, int]:
        """Write a part, whole or not at all; returns its images and errors.

        Raises:
            VitsdError: it can't be written.
        """
        arrow = need_pyarrow()
        metadata = {_METADATA: self._made_with.encode()}
        table = arrow.Table.from_pylist(list(rows), schema=_schema().with_metadata(metadata))
        buffer = arrow.BufferOutputStream()
        arrow.parquet.write_table(table, buffer, compression="zstd")
        self._put(part, buffer.getvalue().to_pybytes())
        return len(table), len(table) - table.column("error").null_count

    def tries(self, part: str) -> Any:
        """What :meth:`note_try` noted last; None if nothing."""
        note = self._path(f"{_TRIES}/{part}.json")
        if not is_file(note):
            return None
        with open_any(note) as file:
            return json.loads(file.read())

    def note_try(self, part: str, what: Mapping[str, Any]) -> None:
        """Remember, until the end of all work, what is being done."""
        self._put(f"{_TRIES}/{part}.json", json.dumps(what).encode())

    def forget_tries(self) -> None:
        """At the end of all work."""
        remove_folder(self._path(_TRIES))

    def _parts(self) -> Iterator[str]:
        for name in names_in(self.folder):
            if name.startswith((".", "_")):
                continue
            if not name.endswith(TABLE_ENDING):
                raise UsageError(
                    f"{printable(self.folder)} holds {printable(name)}, which is no part of a "
                    "result: name an empty folder with `output`."
                )
            yield name

    def _names(self, part: str) -> list[str]:
        with open_table(self._path(part)) as table:
            made_with = (table.schema_arrow.metadata or {}).get(_METADATA)
            if made_with is None:
                raise UsageError(
                    f"{printable(self._path(part))} is no part of a result: name an empty folder "
                    "with `output`."
                )
            if made_with.decode() != self._made_with:
                raise UsageError(
                    f"{printable(self.folder)} holds answers that were made with "
                    f"{_difference(made_with, self._made_with)}: name another folder with "
                    "`output`, or ask as then to go on."
                )
            names: list[str] = table.read(["path"]).column(0).to_pylist()
        return names

    def _put(self, name: str, content: bytes) -> None:
        path = self._path(name)
        place = locate(path)
        with explained(path):
            if place.system is None:
                with atomic_write(place.path) as temporary:
                    temporary.write_bytes(content)
                return
            # At once: a stream that an error ends would leave the beginning of a file.
            with place.system.open_output_stream(place.path) as file:
                file.write(content)

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"


def _schema() -> Any:
    arrow = need_pyarrow()
    answer = [("label", arrow.string()), ("index", arrow.int32()), ("probability", arrow.float32())]
    return arrow.schema(
        [
            ("path", arrow.string()),
            ("label", arrow.string()),
            ("probability", arrow.float32()),
            ("known", arrow.bool_()),
            ("top_k", arrow.list_(arrow.struct(answer))),
            ("error", arrow.string()),
            ("model_sha256", arrow.string()),
        ]
    )


def _difference(before: bytes, now: str) -> str:
    """``top_k 5, not 3``: what parts were made with, where it is another than now."""
    try:
        old, new = json.loads(before), json.loads(now)
        differing = [
            f"{name} {old[name]}, not {new[name]}" for name in new if old[name] != new[name]
        ]
        return printable("; ".join(differing))
    except (ValueError, KeyError, TypeError):
        return "another version of vitsd"
