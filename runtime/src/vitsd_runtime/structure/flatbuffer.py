"""Read a FlatBuffer from a stranger: every offset is checked before it is followed.

As the verifier of the FlatBuffers library does, for what is read; a table with a field that its
reader does not know is refused, because an engine might follow it.

A schema is a string with a letter for each field of a table: that of the ``struct`` module for a
number, ``r`` for a reference to another table, a vector or a string. All fields of a table are read
at once, because a model has thousands.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitsd_runtime.structure import limits
from vitsd_runtime.structure.graph import FlawError

_ITEMS: dict[str, np.dtype[Any]] = {"f": np.dtype("<f4"), "q": np.dtype("<i8")}
_U32, _I32 = (struct.Struct(code).unpack_from for code in ("<I", "<i"))
_REFERENCE = "r"


_Layout = tuple[int, Any, Any, Sequence[tuple[int, int]]]
"""Of a table: its size; a function from its bytes to the fields that are there, in the order of
their places; one from those and a 0 to all fields; number and place of those that are references.
"""


class FlatBuffer:
    """The content of a file; all positions are counted from its start.

    Args:
        data: bytes, or what can be read like them.
    """

    def __init__(self, data: Any) -> None:
        self._data, self._end = data, len(data)
        self._layouts: dict[tuple[int, str], _Layout] = {}
        self._numbers: dict[tuple[int, str], struct.Struct] = {}

    def root(self, schema: str) -> list[Any]:
        """The outermost table's fields, as :meth:`table` gives them."""
        return self.table(_U32(self._data, 0)[0], schema)

    def table(self, position: int, schema: str) -> list[Any]:
        """A table's fields: numbers, and the positions that references lead to; 0 if absent."""
        data, end = self._data, self._end
        if position > end - 4 or position % 4:
            raise damaged()
        key = (position - _I32(data, position)[0], schema)
        size, unpack, order, references = self._layouts.get(key) or self._layout(*key)
        if position + size > end:
            raise damaged()
        fields = list(order((*unpack(data, position), 0)))
        for field, place in references:
            fields[field] += position + place
        return fields

    def tables(self, vector: int, schema: str, limit: int) -> list[list[Any]]:
        """The tables of a vector, at most ``limit``."""
        entries = self.numbers(vector, "I", limit)
        first = vector + 4
        return [self.table(first + 4 * i + entry, schema) for i, entry in enumerate(entries)]

    def numbers(self, vector: int, code: str, limit: int) -> tuple[Any, ...]:
        """The numbers of a vector, at most ``limit``."""
        if not vector:
            return ()
        if vector > self._end - 4 or vector % 4:
            raise damaged()
        count = _U32(self._data, vector)[0]
        if count > limit:
            raise FlawError(f"it has a list of {count:,} entries; the limit is {limit:,}")
        key = (count, code)
        numbers = self._numbers.get(key)
        if numbers is None:
            numbers = self._numbers[key] = struct.Struct(f"<{count}{code}")
        if vector + 4 + numbers.size > self._end:
            raise damaged()
        return numbers.unpack_from(self._data, vector + 4)

    def extent(self, vector: int, code: str, limit: int) -> tuple[int, Any, Any]:
        """How many numbers a vector holds, the smallest and the largest; NaN if one is."""
        item = _ITEMS[code]
        start, count = self.span(vector, item.itemsize)
        if count > limit:
            raise FlawError(f"it has a list of {count:,} entries; the limit is {limit:,}")
        if count < 2:
            (number,) = struct.unpack_from(f"<{code}", self._data, start) if count else (0,)
            return count, number, number
        content = self._data[start : start + count * item.itemsize]
        if content == bytes(len(content)):  # as zero points are, and quicker
            return count, 0, 0
        numbers = np.frombuffer(content, item)
        return count, numbers.min().item(), numbers.max().item()

    def text(self, string: int) -> str:
        """A string, which must be UTF-8 and followed by a zero."""
        if not string:
            return ""
        start, count = self.span(string, 1)
        if count > limits.MAX_NAME_BYTES:
            raise FlawError(f"it has a name of {count:,} bytes")
        if start + count >= self._end or self._data[start + count]:
            raise damaged()
        try:
            return str(self._data[start : start + count], "utf-8")
        except UnicodeDecodeError:
            raise FlawError("it has a name that is no text") from None

    def span(self, vector: int, item_bytes: int) -> tuple[int, int]:
        """Where a vector's first item is, and how many there are."""
        if not vector:
            return 0, 0
        if vector > self._end - 4 or vector % 4:
            raise damaged()
        count: int = _U32(self._data, vector)[0]
        start = vector + 4
        if start + count * item_bytes > self._end or (count and start % item_bytes):
            raise damaged()
        return start, count

    def _layout(self, position: int, schema: str) -> _Layout:
        if not 0 <= position <= self._end - 4 or position % 2:
            raise damaged()
        own, size = struct.unpack_from("<HH", self._data, position)
        if own < 4 or own % 2 or position + own > self._end:
            raise damaged()
        offsets = struct.unpack_from(f"<{own // 2 - 2}H", self._data, position + 4)
        if any(offsets[len(schema) :]):
            raise FlawError("it has fields that this version of vitsd-runtime does not know")
        places = sorted((place, field) for field, place in enumerate(offsets) if place)
        form, done = "<", 0
        for place, field in [(0, -1), *places]:
            code = schema[field].replace(_REFERENCE, "I") if field >= 0 else "4x"  # its own start
            length = struct.calcsize(f"<{code}")
            if place < done or place % min(length, 4):
                raise damaged()
            form += f"{place - done}x{code}"
            done = place + length
        if done > size:
            raise damaged()
        references = tuple((field, at) for at, field in places if schema[field] == _REFERENCE)
        found = {field: i for i, (_, field) in enumerate(places)}
        picks: list[Any] = [found.get(i, len(places)) for i in range(len(schema))]
        if len(picks) == 1:  # a tuple for one field, too
            picks = [slice(picks[0], picks[0] + 1)]
        order = operator.itemgetter(*picks)
        layout = size, struct.Struct(form).unpack_from, order, references
        self._layouts[position, schema] = layout
        return layout


def damaged() -> FlawError:
    """The flaw of a file that is not whole."""
    return FlawError("it is damaged or cut off: an offset leads out of it")
