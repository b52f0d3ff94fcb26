"""Photos of any size and mode to uint8 arrays of a model's input size.

Pillow is needed for files only.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.kinds import ENDINGS
from vitsd_runtime.images.resizing import center_crop, resize_antialiased
from vitsd_runtime.types import RESIZE_MODES, AnyArray, PathLike, ResizeMode, UInt8Array

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can unpack to gigabytes."""
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow knows more, some of which start other programs (EPS)."""
_MAX_SIDE = 100_000
_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def load_image(
    source: Any, input_size: tuple[int, int, int], resize_mode: ResizeMode = "stretch"
) -> UInt8Array:
    """Bring one image to a model's input size.

    Files and PIL images are turned upright (EXIF), transparent ones laid on white, 16-bit ones
    scaled to 8, animations represented by their first frame, then converted to RGB (or gray, for
    a one-channel model). Images of another size are resized with antialiasing.

    Args:
        source: a path, a PIL image, or a uint8 array ``(height, width[, channels])``.
        input_size: height, width and channels (1 or 3) of the result.
        resize_mode: ``crop`` takes the central part with the right aspect ratio, ``stretch`` the
            whole image.

    Returns:
        uint8 array of shape ``input_size``.

    Raises:
        VitsdError: the image can't be read, or is too large.
        UsageError: the array has a wrong dtype or shape, or the path does not exist.
    """
    if resize_mode not in RESIZE_MODES:
        raise UsageError(
            f"resize_mode must be one of {', '.join(RESIZE_MODES)}; got {resize_mode!r}."
        )
    if isinstance(source, (str, os.PathLike)):
        source = open_image(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, input_size, resize_mode)
    if is_pil_image(source):
        return _from_pil(source, input_size, resize_mode)
    raise UsageError(
        f"An image must be a path, a PIL image or a uint8 array; got {type(source).__name__}."
    )


def is_pil_image(value: object) -> bool:
    """Whether ``value`` is a PIL image, told without importing PIL."""
    return hasattr(value, "convert") and hasattr(value, "size")


def is_image_file(path: PathLike) -> bool:
    """Whether a file name has the ending of an image."""
    return Path(path).suffix.lower() in ENDINGS


def open_image(path: PathLike) -> Any:
    """Open and decode an image file as a PIL image, bounded in size.

    Raises:
        VitsdError, UsageError: as for :func:`load_image`.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise VitsdError(
            'Reading image files needs Pillow: pip install "vitsd-runtime[images]".'
        ) from error
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise VitsdError(f"{path} is empty (0 bytes).")
        image = Image.open(path, formats=_FORMATS)
        _check_pixels(image, str(path))
        image.load()
    except FileNotFoundError as error:
        raise UsageError(f"There is no image at {path}.") from error
    except Image.DecompressionBombError as error:
        raise VitsdError(
            f"{path} has too many pixels; more than {MAX_PIXELS:,} are refused."
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        # what Pillow raises for broken files
        raise VitsdError(f"{path} can't be read as an image: {error}.") from error
    return image


def _check_pixels(image: Any, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise VitsdError(
            f"{name} has {width}x{height} pixels; more than {MAX_PIXELS:,} are refused."
        )


def _from_pil(image: Any, input_size: tuple[int, int, int], resize_mode: ResizeMode) -> UInt8Array:
    from PIL import Image, ImageOps

    _check_pixels(image, "The image")
    height, width, channels = input_size
    # Malformed EXIF can raise anything; it is ignored then.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    image = _to_8_bits(image)
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        box: tuple[float, ...] = (0, 0, *image.size)
        if resize_mode == "crop":
            box = center_crop(image.size[1], image.size[0], height, width)
        # Antialiased when shrinking.
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image).reshape(height, width, channels)


def _to_8_bits(image: Any) -> Any:
    """16 bits a pixel, as ``I;16`` or widened to 32, to 8; Pillow's own conversion would clip."""
    from PIL import Image

    if image.mode == "F":
        raise VitsdError(
            "Floating-point images are not supported: save the image with 8 or 16 bits per channel."
        )
    if not image.mode.startswith("I"):
        return image
    array = np.asarray(image).astype(np.int64)
    if array.min() < 0 or array.max() > 0xFFFF:
        raise VitsdError(
            "32-bit integer images are not supported: save the image with 8 or 16 bits per channel."
        )
    return Image.fromarray((array >> 8).astype(np.uint8))


def _from_array(
    array: AnyArray, input_size: tuple[int, int, int], resize_mode: ResizeMode
) -> UInt8Array:
    height, width, channels = input_size
    array = _checked(array)
    if array.shape[2] < channels:
        array = np.repeat(array, channels, axis=2)
    elif array.shape[2] > channels:
        array = _to_gray(array)
    if array.shape[:2] == (height, width):
        return array
    box = (0.0, 0.0, float(array.shape[1]), float(array.shape[0]))
    if resize_mode == "crop":
        box = center_crop(array.shape[0], array.shape[1], height, width)
    return resize_antialiased(array, height, width, box)


def _checked(array: AnyArray) -> UInt8Array:
    if array.dtype != np.uint8:
        raise UsageError(
            f"Image arrays must be uint8 with values 0-255; got {array.dtype}. Scale values in "
            "0..1 by 255, remove NaN, round, and convert with .astype(numpy.uint8)."
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise UsageError(
            f"An image array must be (height, width[, 1 or 3]); got shape {array.shape}."
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS or max(array.shape) > _MAX_SIDE:
        raise VitsdError(
            f"The image has {array.shape[1]}x{array.shape[0]} pixels; that is too many."
        )
    return array


def _to_gray(array: UInt8Array) -> UInt8Array:
    """With Pillow's weights (ITU-R 601), in its fixed-point arithmetic."""
    weighted = array @ np.array([19595, 38470, 7471]) + 0x8000
    gray: UInt8Array = (weighted >> 16).astype(np.uint8)
    return gray[:, :, None]
