"""Protobuf's wire format. Messages are a stranger's, so every length in them is checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from vitsd_runtime.structure.graph import FlawError

VARINT, BYTES, FIXED32 = 0, 2, 5
"""Kinds of values on the wire."""


class Span(NamedTuple):
    """Where a message, string or packed list is."""

    start: int
    end: int


def read_fields(data: Any, span: Span, known: str, message: str) -> Iterator[tuple[int, Any]]:
    """The fields of a message, in order.

    Args:
        data: bytes, or what can be read like them.
        span: the message's.
        known: a letter for each field from number 1: ``n`` a whole number, ``f`` a float's four
            bytes, ``b`` bytes, ``l`` a list of numbers, ``m`` another message, of which there is
            only one, ``-`` none. A list is given packed or in parts.
        message: its name, for messages.

    Yields:
        The number of each field, and a number or a :class:`Span`.

    Raises:
        FlawError: the message is cut off, or has other fields.
    """
    position, end = span
    seen = 0
    while position < end:
        tag, position = read_varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        kind = known[number - 1] if 0 < number <= len(known) else "-"
        if wire not in _WIRES[kind]:
            raise FlawError(f"its {message} has a field {number} that vitsd-export does not write")
        if kind == "m" and seen >> number & 1:
            raise FlawError(f"its {message} has field {number} twice")
        seen |= 1 << number
        if wire == VARINT:
            value, position = read_varint(data, position, end)
            yield number, value
            continue
        length = 4
        if wire == BYTES:
            length, position = read_varint(data, position, end)
        if length > end - position:
            raise cut_off()
        yield number, Span(position, position + length)
        position += length


_WIRES = {
    "n": (VARINT,),
    "f": (FIXED32,),
    "b": (BYTES,),
    "l": (VARINT, FIXED32, BYTES),
    "m": (BYTES,),
    "-": (),
}


def read_varint(data: Any, position: int, end: int) -> tuple[int, int]:
    """A number of up to 64 bits, without sign, and where it ends."""
    number = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        if byte < 0x80:
            return number | byte << shift, position
        number |= (byte & 0x7F) << shift
        shift += 7
    raise cut_off()


def varint(number: int) -> bytes:
    """The inverse of :func:`read_varint`."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_integers(data: Any, value: Any, limit: int) -> list[int]:
    """The signed numbers of a list's field, packed or one."""
    numbers = [value] if isinstance(value, int) else []
    position, end = (0, 0) if isinstance(value, int) else value
    while position < end:
        if len(numbers) == limit:
            raise FlawError(f"it has a list of more than {limit:,} numbers")
        number, position = read_varint(data, position, end)
        numbers.append(number)
    return [signed(number) for number in numbers]


def signed(number: int) -> int:
    """Of a varint, as int64."""
    number &= 2**64 - 1
    return number - 2**64 if number >> 63 else number


def cut_off() -> FlawError:
    """The flaw of a file that is not whole."""
    return FlawError("it is damaged or cut off: a field leads out of it")
