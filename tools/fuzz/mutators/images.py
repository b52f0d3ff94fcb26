"""Image files: headers and chunks of every format that Pillow opens for us."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from tools.fuzz.mutators import raw

_HEADER = 200
"""Bytes at the beginning, where most formats keep sizes."""


def samples() -> dict[str, bytes]:
    """Small files of every format and mode, by their name."""
    y, x = np.mgrid[0:24, 0:32]
    pixels = np.stack([8 * x, 10 * y, 4 * (x + y)], -1).astype(np.uint8)
    color = Image.fromarray(pixels)
    gray16 = Image.fromarray(257 * pixels[..., 0].astype(np.uint16))
    frames = [Image.fromarray(np.roll(pixels, 4 * i, 1)) for i in range(3)]
    wanted: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "color.png": (color, {}),
        "alpha.png": (color.convert("RGBA"), {}),
        "palette.png": (color.convert("P"), {}),
        "bits.png": (color.convert("1"), {}),
        "gray16.png": (gray16, {}),
        "animated.png": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "color.jpg": (color, {"quality": 80}),
        "gray.jpg": (color.convert("L"), {}),
        "cmyk.jpg": (color.convert("CMYK"), {}),
        "progressive.jpg": (color, {"progressive": True}),
        "color.webp": (color, {}),
        "lossless.webp": (color.convert("RGBA"), {"lossless": True}),
        "animated.webp": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "color.bmp": (color, {}),
        "palette.bmp": (color.convert("P"), {}),
        "color.gif": (color.convert("P"), {}),
        "animated.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "color.tif": (color, {}),
        "lzw.tif": (color, {"compression": "tiff_lzw"}),
        "deflate.tif": (gray16, {"compression": "tiff_adobe_deflate"}),
        "float.tif": (color.convert("F"), {}),
        "pages.tif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "color.ppm": (color, {}),
        "gray.pgm": (color.convert("L"), {}),
    }
    return {name: _saved(image, name, options) for name, (image, options) in wanted.items()}


def _saved(image: Image.Image, name: str, options: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    image.save(out, Image.registered_extensions()["." + name.split(".")[1]], **options)
    return out.getvalue()


def mutate(rng: Random, name: str, content: bytes) -> bytes:
    """A file with damaged or foreign headers, chunks, segments or tags."""
    structured = _STRUCTURED.get(name.rsplit(".")[-1])
    if structured is not None and rng.random() < 0.6:
        return structured(rng, content)
    return raw.mutate(rng, content, [(0, min(_HEADER, len(content)))] if rng.random() < 0.7 else ())


def _png(rng: Random, content: bytes) -> bytes:
    """Chunks whose checksums are right."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    i = rng.randrange(len(chunks))
    kind, data = chunks[i]
    change = rng.randrange(6)
    if change == 0:
        header = bytearray(chunks[0][1])
        sizes = (0, 1, 2**15, 99_999, 100_000_000, 2**31 - 1, 2**32 - 1)
        struct.pack_into(">I", header, rng.choice((0, 4)), rng.choice(sizes))
        chunks[0] = (chunks[0][0], bytes(header))
    elif change == 1:
        chunks[i] = (kind, raw.mutate(rng, data))
    elif change == 2:
        chunks[i:i] = [chunks[i]] * rng.choice((1, 1000))
    elif change == 3:
        del chunks[i]
    elif change == 4:
        bomb = b"x\0\0" + _zeros(rng.choice((1000, 2**26)))
        chunks.insert(1, (rng.choice((b"zTXt", b"iCCP", b"iTXt", b"tEXt")), bomb))
    else:
        chunks[i] = (rng.choice((b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fdAT", b"eXIf")), data)
    return content[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


@functools.lru_cache
def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _jpeg(rng: Random, content: bytes) -> bytes:
    """Segments repeated, removed, resized; thousands of scans."""
    starts = [
        i
        for i in range(2, len(content) - 4)
        if content[i] == 0xFF and 0xC0 <= content[i + 1] < 0xFF
    ]
    at = rng.choice(starts)
    (length,) = struct.unpack_from(">H", content, at + 2)
    segment, rest = content[at : at + 2 + length], content[at + 2 + length :]
    change = rng.randrange(5)
    if change == 0:
        return content[:at] + segment * rng.choice((2, 1000)) + rest
    if change == 1:
        return content[:at] + rest
    if change == 2:
        size = struct.pack(">H", rng.choice((0, 1, 2, 3, 0xFFFF)))
        return content[: at + 2] + size + content[at + 4 :]
    if change == 3:
        frames = [i for i in starts if content[i + 1] in (0xC0, 0xC1, 0xC2)]
        out = bytearray(content)
        for i in frames[:1]:
            struct.pack_into(
                ">HH", out, i + 5, *rng.choices((0, 1, 32, 10_000, 65_500, 65_535), k=2)
            )
        return bytes(out)
    scans = [i for i in starts if content[i + 1] == 0xDA]
    scan = content[scans[-1] : -2]
    return content[:-2] + scan * rng.choice((10, 2000)) + content[-2:]


def _tiff(rng: Random, content: bytes) -> bytes:
    """Entries of the first directory."""
    out = bytearray(content)
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, start)
    for _ in range(rng.choice((1, 1, 2))):
        entry = start + 2 + 12 * rng.randrange(count)
        field, form = rng.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "I"), (8, "H")))
        number = rng.choice(raw.NUMBERS) % (2**16 if form == "H" else 2**32)
        struct.pack_into(order + form, out, entry + field, number)
    return bytes(out)


_STRUCTURED: dict[str, Callable[[Random, bytes], bytes]] = {"png": _png, "jpg": _jpeg, "tif": _tiff}
