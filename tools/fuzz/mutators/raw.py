"""Damage that needs no knowledge of the format: bits, bytes, words, cuts, repetitions."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

WORDS = (0, 1, 2, 3, 4, 7, 8, 16, 64, 127, 128, 255, 256, 1000, 4096, 32767, 32768, 65535, 65536)
BIG = (2**20, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**62, 2**63 - 1)
NUMBERS = (*WORDS, *BIG, *(-n for n in (1, 2, 3, 4, 8, 255, 2**31, 2**63)))
"""Integers at which code tends to break."""
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    1e-30,
    1e30,
    3.5e38,
    float("inf"),
    -float("inf"),
    float("nan"),
)
_WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}

Span = tuple[int, int]
"""Start and end of a part of a file, in bytes."""


def mutate(rng: Random, data: bytes, spans: Sequence[Span] = ()) -> bytes:
    """One to four random changes.

    Args:
        rng: of this input.
        data: what is changed.
        spans: where changes are interesting; by default everywhere.
    """
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        rng.choice(_CHANGES)(rng, out, _position(rng, len(out), spans))
    return bytes(out)


def put_number(rng: Random, out: bytearray, at: int) -> None:
    """Overwrite one, two, four or eight bytes with an interesting number."""
    width = rng.choice((1, 2, 4, 4, 8))
    at -= at % width
    number = rng.choice(NUMBERS) % 2 ** (8 * width)
    order = rng.choice("<<<>")
    out[at : at + width] = struct.pack(order + _WIDTHS[width], number)[: len(out) - at]


def _position(rng: Random, length: int, spans: Sequence[Span]) -> int:
    if not spans:
        return rng.randrange(length)
    start, end = rng.choices(spans, [end - start for start, end in spans])[0]
    return min(rng.randrange(start, end), length - 1)


def _flip_bit(rng: Random, out: bytearray, at: int) -> None:
    out[at] ^= 1 << rng.randrange(8)


def _put_byte(rng: Random, out: bytearray, at: int) -> None:
    out[at] = rng.randrange(256)


def _add(rng: Random, out: bytearray, at: int) -> None:
    """Move a little-endian word, such as an offset, by a little."""
    at = min(at - at % 4, max(0, len(out) - 4))
    if len(out) - at >= 4:
        (word,) = struct.unpack_from("<I", out, at)
        struct.pack_into("<I", out, at, (word + rng.choice((-8, -4, -1, 1, 4, 8, 64))) % 2**32)


def _cut(rng: Random, out: bytearray, at: int) -> None:
    del out[at:]


def _remove(rng: Random, out: bytearray, at: int) -> None:
    del out[at : at + rng.choice((1, 2, 4, 16, 256))]


def _repeat(rng: Random, out: bytearray, at: int) -> None:
    part = out[at : at + rng.choice((1, 4, 16, 256))]
    out[at:at] = part * rng.choice((1, 2, 16))


def _zero(rng: Random, out: bytearray, at: int) -> None:
    length = min(rng.choice((1, 4, 16, 256)), len(out) - at)
    out[at : at + length] = bytes(length)


_CHANGES = (
    _flip_bit,
    _flip_bit,
    _put_byte,
    put_number,
    put_number,
    put_number,
    _add,
    _cut,
    _remove,
    _repeat,
    _zero,
)
