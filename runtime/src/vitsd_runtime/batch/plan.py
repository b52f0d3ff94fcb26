"""Which images are meant, and how they are divided into chunks: the same way each time."""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vitsd_runtime.batch.answers import as_text
from vitsd_runtime.batch.chunks import (
    TABLE_ENDING,
    Chunk,
    DamagedError,
    open_table,
    read_column,
)
from vitsd_runtime.batch.storage import Place, explained, is_on_web, locate, need_pyarrow
from vitsd_runtime.errors import UsageError
from vitsd_runtime.images.files import find_images, is_hidden, is_image_name, scan_images
from vitsd_runtime.images.kinds import HEAD_BYTES, image_kind
from vitsd_runtime.system.text import first_few, printable

_MIN_CHUNK, _MAX_CHUNK = 16, 1024
"""Images: fewer are not worth a file, and more are much to do again where a worker is lost."""
_CHUNKS = 256
"""That there should be, so that many workers have something to do until the end."""
_MAX_VALUES = 10**6
"""Classes of all images of a chunk, which are in memory together: some 100 MB."""
_NAMES_AT_ONCE = 4096

_log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What is to be done."""

    chunks: list[Chunk]
    images: int
    """In the chunks."""
    done: int
    """Images that were in the result already."""
    repeated: int
    """Names that came once more; each is answered once."""


def make_plan(
    sources: Sequence[str], done: set[str], top_k: int, output: str | None = None
) -> Plan:
    """Divide the images that are not done yet into chunks.

    Args:
        sources: paths and URLs of images, of folders of them and of Parquet files, and patterns.
        done: names in the result.
        top_k: classes of each answer.
        output: absolute path or URL of the folder with the result, whose tables are no sources.

    Raises:
        UsageError: there is nothing at one of them, or no image; or two have the same name.
        VitsdError: something can't be read.
    """
    found = list(_groups(sources, output))
    seen: dict[str, str] = {}
    groups = [_without(group, seen) for group in found]
    total = len(seen)
    if not total:
        raise UsageError(f"There is no image in {first_few(list(map(printable, sources)))}.")
    size = min(max(-(-total // _CHUNKS), _MIN_CHUNK), _MAX_CHUNK, max(_MAX_VALUES // top_k, 1))
    cut = [_select(group, range(i, i + size)) for group in groups for i in _starts(group, size)]
    chunks = [chunk for chunk in (_not_done(chunk, done) for chunk in cut) if chunk.names]
    images = sum(len(chunk.names) for chunk in chunks)
    repeated = sum(len(group.names) for group in found) - total
    return Plan(chunks, images, total - images, repeated)


def _without(group: Chunk, seen: dict[str, str]) -> Chunk:
    """The images whose names were not seen before; they are from now on.

    Args:
        group: some images.
        seen: names, and where their images are.
    """
    new = []
    for i, name in enumerate(group.names):
        place = group.place(i)
        if name not in seen:
            seen[name] = place
            new.append(i)
        elif seen[name] != place:
            raise UsageError(
                f"{printable(name)} is the name of two images, {printable(seen[name])} and "
                f"{printable(place)}: the column `path` of tables must hold another one for each."
            )
    return _select(group, new)


def _not_done(chunk: Chunk, done: set[str]) -> Chunk:
    return _select(chunk, [i for i, name in enumerate(chunk.names) if as_text(name) not in done])


def _select(chunk: Chunk, places: Sequence[int]) -> Chunk:
    places = [i for i in places if i < len(chunk.names)]
    rows = tuple(chunk.rows[i] for i in places) if chunk.rows else ()
    return replace(chunk, names=tuple(chunk.names[i] for i in places), rows=rows)


def _starts(group: Chunk, size: int) -> range:
    return range(0, len(group.names), size)


def _groups(sources: Sequence[str], output: str | None) -> Iterator[Chunk]:
    """All images: those of files together, those of each row group of a table."""
    files: list[str] = []
    tables: dict[str, None] = {}
    for source in sources:
        for name in _expand(source):
            if not name.lower().endswith(TABLE_ENDING):
                files.append(name)
            elif not name.startswith(f"{output}/"):
                tables[name] = None
    for table in tables:
        yield from _table_groups(table)
    yield Chunk(tuple(files))


def _expand(source: str) -> list[str]:
    """The images and tables that are meant: absolute paths and URLs."""
    if is_on_web(source):
        return [source]
    place = locate(source)
    if place.system is None:
        return _expand_local(place.path)
    return [f"{place.prefix}{path}" for path in _expand_remote(source, place)]


def _expand_local(path: str) -> list[str]:
    if os.path.isdir(path):
        return _in_folder(path)
    if os.path.lexists(path):
        return [path]
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise _nothing_at(path)
    found = (_in_folder(match) if os.path.isdir(match) else [match] for match in matches)
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def _in_folder(path: str) -> list[str]:
    scan = scan_images(path)
    if not scan.files:
        return _tables_in(path) or list(map(str, find_images(path).files))  # says what there is
    if left_out := scan.describe():
        _log.info("%s: %s", printable(path), left_out)
    return list(map(str, scan.files))


def _tables_in(path: str) -> list[str]:
    tables = (table for table in Path(path).rglob(f"*{TABLE_ENDING}") if table.is_file())
    return sorted(
        str(table) for table in tables if not any(map(is_hidden, table.relative_to(path).parts))
    )


def _expand_remote(source: str, place: Place) -> list[str]:
    system, path, _ = place
    fs = need_pyarrow().fs
    folder = path
    with explained(source):
        (info,) = system.get_file_info([path])
        if info.is_file:
            return [path]
        if info.type == fs.FileType.NotFound:
            folder = re.split(r"/[^/]*[*?[]", path)[0]
            if folder == path:
                raise _nothing_at(source)
        below = system.get_file_info(fs.FileSelector(folder, recursive=True))
    files = sorted(info.path for info in below if info.is_file)
    if folder != path:
        chosen = [file for file in files if re.fullmatch(_pattern(path), file)]
    else:
        inside = [file for file in files if not any(map(is_hidden, file[len(path) :].split("/")))]
        chosen = [file for file in inside if _is_remote_image(file, system)]
        chosen = chosen or [file for file in inside if file.endswith(TABLE_ENDING)]
    if not chosen:
        raise _nothing_at(source)
    return chosen


def _is_remote_image(path: str, system: Any) -> bool:
    by_name = is_image_name(path.rsplit("/", 1)[-1])
    if by_name is not None or path.endswith(TABLE_ENDING):
        return bool(by_name)
    with explained(path), system.open_input_stream(path) as file:
        return image_kind(file.read(HEAD_BYTES)) is not None


def _pattern(path: str) -> str:
    """What a shell means by ``**/``, ``*`` and ``?``, as a regular expression."""
    words = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", path)
    return "".join(words.get(part, re.escape(part)) for part in parts)


def _nothing_at(source: str) -> UsageError:
    return UsageError(f"There is no image, folder or table at {printable(source)}.")


def _table_groups(table: str) -> Iterator[Chunk]:
    with open_table(table) as opened:
        names, images = _columns(opened.schema_arrow, table)
        before = 0
        for i in range(opened.num_row_groups):
            count = opened.metadata.row_group(i).num_rows
            given = _read_names(opened, table, i, names) if names is not None else []
            known, rows = len(given), tuple(range(count))
            given += [None] * (count - known)
            numbered = tuple(name or f"{table}#{before + k}" for k, name in enumerate(given))
            if images is not None:
                yield Chunk(numbered, table=table, column=images, row_group=i, rows=rows)
            else:
                yield Chunk(numbered[:known], folder=table.rpartition("/")[0])
                # Where names are damaged, they are what can't be read of each row.
                lost = Chunk((), table=table, column=names or "", row_group=i)
                yield replace(lost, names=numbered[known:], rows=rows[known:])
            before += count


def _read_names(opened: Any, table: str, row_group: int, column: str) -> list[str | None]:
    """What a row group calls its images, up to where it is damaged."""
    names: list[str | None] = []
    try:
        for name in read_column(opened, table, row_group, column, _NAMES_AT_ONCE):
            names.append(name.as_py())
    except DamagedError as error:
        _log.warning("Images whose names are lost are called by their numbers: %s", error)
    return names


def _columns(schema: Any, table: str) -> tuple[str | None, str | None]:
    """The columns with names and with the content of images, if there are such."""
    types = need_pyarrow().types
    flat = {}
    for field in schema:
        inner = field.type if types.is_struct(field.type) else ()
        flat.update({f"{field.name}.{child.name}": child.type for child in inner})
        flat[field.name] = field.type
    kinds = {name: _kind(type) for name, type in flat.items()}
    binary = [name for name, kind in kinds.items() if kind == "bytes"]
    strings = [name for name, kind in kinds.items() if kind == "text"]
    names = [name for name in strings if name.split(".")[-1] == "path"]
    if len(binary) > 1 or not (binary or names):
        raise UsageError(
            f"{printable(table)} must have one column of images as bytes, or one of strings that "
            f"is called path; it has {first_few(list(flat))}."
        )
    return next(iter(names), None), next(iter(binary), None)


def _kind(type: Any) -> str:
    """What is in a column, in whatever way it is stored."""
    types = need_pyarrow().types
    if types.is_dictionary(type):  # pandas' categories
        type = type.value_type
    names = {"binary": "bytes", "large_binary": "bytes", "binary_view": "bytes"}
    names.update({"string": "text", "large_string": "text", "string_view": "text"})
    return names.get(str(type), "")
