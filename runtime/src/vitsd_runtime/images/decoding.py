"""Image files to pixels, with Pillow, within limits that are checked before anything is decoded."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.images.kinds import HEAD_BYTES, image_kind, what_it_is
from vitsd_runtime.system.text import first_line

MAX_PHOTO_SIDE = 100_000
"""Pixels; those of what a model takes are bounded by its spec."""
MAX_DECODED_BYTES = 512 * 2**20
"""Of memory, while an image is decoded: 134 million pixels of most formats."""
MAX_SCAN_PIXELS = 10**9
"""Of a JPEG, times its scans, each of which goes over all pixels: some seconds. Usual are 10."""
MAX_SLOW_VALUES = 4 * 10**6
"""Of an image that Pillow decodes in Python, such as numbers written as text: some seconds."""
_BYTES_PER_PIXEL = {"WEBP": 16, "AVIF": 16}
"""That decoding takes, where it is not Pillow's 4; measured."""
_START_OF_SCAN = b"\xff\xda"
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xda-\xfe]")
"""A marker of a JPEG that has a length; a decoder passes over others, and over repeated FF."""
_JPEGS = ("JPEG", "MPO")
_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_NUMBERS = ("I", "F")  # and variants of the first, such as I;16
_TURNED = {
    2: ("FLIP_LEFT_RIGHT", False, False, True),
    3: ("ROTATE_180", False, True, True),
    4: ("FLIP_TOP_BOTTOM", False, True, False),
    5: ("TRANSPOSE", True, False, False),
    6: ("ROTATE_270", True, False, True),
    7: ("TRANSVERSE", True, True, True),
    8: ("ROTATE_90", True, True, False),
}
"""By EXIF orientation, what brings an image upright: Pillow's name for it; whether rows become
columns, and then top and bottom are exchanged, and left and right are."""


class TooManyPixelsError(VitsdError):
    """An image has more pixels than the caller wants to decode."""


def need_pillow() -> None:
    """Make sure that image files can be read.

    Raises:
        VitsdError: Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:  # or it does not fit this Python
        raise VitsdError(
            'Reading image files needs Pillow: pip install "vitsd-runtime[images]".'
        ) from error
    del Image


def decode(
    content: bytes,
    name: str,
    all_bits: bool = False,
    max_pixels: int | None = None,
    least_side: float | None = None,
) -> tuple[Any, tuple[float, float]]:
    """A PIL image of the content of a file, and how much of its width and height it fills.

    All of it, but at a smaller scale, where a last row or column may be filled in part.

    Args:
        content: of the file.
        name: of the image in messages.
        all_bits: refuse images of whose values Pillow keeps less.
        max_pixels: refuse larger images.
        least_side: decode a JPEG at the smallest scale that leaves its shorter side at least this
            long; None: in full.

    Raises:
        TooManyPixelsError: it has more than ``max_pixels``.
        VitsdError: it is no image, is damaged, exceeds a limit, or Pillow is missing.
    """
    need_pillow()
    from PIL import Image, UnidentifiedImageError

    kind = image_kind(content[:HEAD_BYTES])
    if kind is None:
        raise VitsdError(f"{name} can't be read as an image: {what_it_is(content[:HEAD_BYTES])}.")
    Image.preinit()  # the usual formats
    if kind not in Image.OPEN:
        Image.init()  # all, which takes 20 ms
        if kind not in Image.OPEN:
            raise VitsdError(f"{name} can't be read as an image: this Pillow knows no {kind}.")
    with readable(name):
        # Only that format: Pillow knows some that start other programs.
        try:
            image = Image.open(io.BytesIO(content), formats=[kind])
        except UnidentifiedImageError as error:
            raise VitsdError(
                f"{name} can't be read as an image: it begins like a {kind} file, but is damaged "
                "or cut off."
            ) from error
        _check_limits(image, name, content)
        _check_pixels(image, name, max_pixels)
        if all_bits and not _all_bits_kept(image):
            raise VitsdError(
                f"{name} has values of more than 8 bits that can't be read in full: save it as a "
                "gray PNG of 16 bits."
            )
        filled = image.size if least_side is None else _reduce(image, least_side)
        image.load()
    return image, filled


def _reduce(image: Any, least_side: float) -> tuple[float, float]:
    """Have a JPEG decoded at a smaller scale; other formats have none. Returns what is filled."""
    width, height = image.size
    for scale in (8, 4, 2):
        small = width // scale, height // scale
        if min(small) >= least_side and image.draft(None, small):
            return width / scale, height / scale
    return width, height


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for a broken image into a VitsdError that names it.

    Raises:
        MemoryError: it is passed on.
    """
    try:
        yield
    except (VitsdError, MemoryError):
        raise
    except Exception as error:  # there is hardly one that no broken file leads to
        reason = first_line(error).rstrip(".")
        raise VitsdError(f"{name} can't be read as an image: {reason}.") from error


def check_side(width: int, height: int, name: str) -> None:
    """Refuse images that are very long.

    Raises:
        VitsdError: a side is above :data:`MAX_PHOTO_SIDE`.
    """
    if max(width, height) > MAX_PHOTO_SIDE:
        raise VitsdError(
            f"{name} has {width}x{height} pixels; more than {MAX_PHOTO_SIDE:,} on a side are "
            "refused."
        )


class DecodedImage:
    """Rows of a PIL image: upright, transparent ones laid on white.

    Converted when they are read, part by part: of a large photo there is no second copy.

    Args:
        image: the PIL image.
        gray: read as gray; else as RGB, but for images without color.
        name: of the image in messages.
        filled: how much of its width and height the picture fills, from the left and the top;
            None: all.

    Raises:
        VitsdError: it is damaged, or exceeds a limit.
    """

    def __init__(
        self, image: Any, gray: bool, name: str, filled: tuple[float, float] | None = None
    ) -> None:
        with readable(name):
            _check_limits(image, name)
            image.load()
            turned = _TURNED.get(_orientation(image), ("", False, False, False))
        self._image, self._name = image, name
        self._turn, self._swapped, self._upside_down, mirrored = turned
        self._target = "L" if gray or image.mode in ("1", "L", "LA", "La") else "RGB"
        self.ready = not (self._turn or image.mode != self._target or _is_transparent(image))
        """Whether rows are as the decoder left them, which makes reading all of them no copy."""
        across, down = filled or image.size
        self.height, self.width = image.size[::-1]
        if self._swapped:
            self.height, self.width = image.size
            across, down = down, across
        left = self.width - across if mirrored else 0.0
        top = self.height - down if self._upside_down else 0.0
        self.picture = left, top, left + across, top + down

    def rows(self, start: int, stop: int) -> Any:
        """Rows ``start`` to ``stop``: a PIL image of mode L or RGB, or numbers of another type."""
        from PIL import Image

        if self._upside_down:
            start, stop = self.height - stop, self.height - start
        box = (start, 0, stop, self.width) if self._swapped else (0, start, self.width, stop)
        with readable(self._name):
            whole = stop - start == self.height
            part = self._converted(self._image if whole else self._image.crop(box))
            if self._turn:
                part = part.transpose(Image.Transpose[self._turn])
        return np.asarray(part) if part.mode.startswith(_NUMBERS) else part

    def _converted(self, part: Any) -> Any:
        from PIL import Image

        if part.mode.startswith(_NUMBERS):
            return part
        if _is_transparent(part):
            part = part.convert("LA" if part.mode == "La" else "RGBA").convert("RGBA")
            part = Image.alpha_composite(Image.new("RGBA", part.size, "white"), part)
        return part if part.mode == self._target else part.convert(self._target)


def _is_transparent(image: Any) -> bool:
    return image.mode in _TRANSPARENT_MODES or "transparency" in image.info


def _orientation(image: Any) -> int:
    with contextlib.suppress(Exception):  # malformed EXIF raises anything; it is ignored then
        return int(image.getexif().get(0x0112, 1))
    return 1


def _check_limits(image: Any, name: str, content: bytes = b"") -> None:
    width, height = image.size
    check_side(width, height, name)
    what, pixels = f"{name} has {width}x{height} pixels", width * height
    in_one = image.format not in _JPEGS or _in_one_scan(image, content)
    scans = 1 if in_one else max(1, content.count(_START_OF_SCAN))
    if not pixels:
        raise VitsdError(f"{what}: it is empty.")
    if pixels * _bytes_per_pixel(image, content) > MAX_DECODED_BYTES:
        limit = f"{MAX_DECODED_BYTES // 2**20} MiB"
        raise VitsdError(f"{what}; images that take more than {limit} of memory are refused.")
    if pixels * scans > MAX_SCAN_PIXELS:
        raise VitsdError(f"{what} in {scans} scans, which would take too long: save it anew.")
    if _decoded_in_python(image):
        values = max(pixels * len(image.getbands()), len(content) // 4)
        if values > MAX_SLOW_VALUES:
            raise VitsdError(f"{what} in an encoding that takes too long to read: save it as PNG.")


def _check_pixels(image: Any, name: str, max_pixels: int | None) -> None:
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise TooManyPixelsError(
            f"{name} has {width}x{height} pixels; more than {max_pixels:,} are refused."
        )


def _all_bits_kept(image: Any) -> bool:
    colors = len(image.getbands()) > 1  # of 16 bits each, 8 are kept; and PPM's are rescaled
    return not any(tile[0] == "ppm" or (colors and ";16" in str(tile)) for tile in image.tile)


def _decoded_in_python(image: Any) -> bool:
    from PIL import Image

    return any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ()))


def _bytes_per_pixel(image: Any, content: bytes) -> float:
    tags = getattr(image, "tag_v2", {})
    if tags:  # TIFF: strips or tiles are unpacked beside the image, and tiles may be larger than it
        bits = tags.get(258, 8)
        sample = sum(bits) if isinstance(bits, tuple) else bits
        tile = tags.get(322, 0) * tags.get(323, 0) / (image.size[0] * image.size[1])
        return float(4 + sample / 8 * max(1, tile))
    if content and image.format in _JPEGS and not _in_one_scan(image, content):
        return 4 + 2 * len(image.getbands())  # coefficients are kept until all scans are read
    return _BYTES_PER_PIXEL.get(image.format, 4)


def _in_one_scan(image: Any, content: bytes) -> bool:
    """Whether the first scan of a JPEG has all colors; not, if that can't be told."""
    place = 2
    while _SEGMENT.match(content, place):
        if content[place : place + 2] == _START_OF_SCAN:
            colors = content[place + 4 : place + 5]
            return colors == bytes([len(image.getbands())]) and "progressive" not in image.info
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False
