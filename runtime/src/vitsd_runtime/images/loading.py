"""Photos of any size and mode to uint8 arrays of a model's input size. Pillow is needed for files only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.preprocessing import antialiased_resize_matrix
from vitsd_runtime.spec import FITS

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow knows more, some of which start other programs (EPS)."""
MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can unpack to gigabytes."""


_MAX_SIDE = 100_000


def load_image(source, spec, fit: str | None = None) -> np.ndarray:
    """Bring one image to the model's input size.

    Files and PIL images are turned upright (EXIF), transparent ones laid on white, 16-bit ones scaled to 8, animations
    represented by their first frame, then converted to RGB (or grey, for a one-channel model). Images of another size
    than ``spec.input_size`` are resized with antialiasing; ``fit="crop"`` takes the central part with the right aspect
    ratio, ``fit="stretch"`` the whole image; by default what the spec says.

    Args:
        source: a path, a PIL image, or a uint8 array ``(height, width[, channels])``.

    Returns:
        uint8 array of shape ``spec.input_size``.

    Raises:
        VitsdError: the image can't be read, or is too large.
        UsageError: the array has a wrong dtype or shape, or the path does not exist.
    """
    fit = fit or spec.fit
    if fit not in FITS:
        raise UsageError(f"fit must be one of {', '.join(FITS)}; got {fit!r}.")
    if isinstance(source, (str, os.PathLike)):
        return _fit_pil(open_image(source), spec, fit)
    if isinstance(source, np.ndarray):
        return _fit_array(source, spec, fit)
    if hasattr(source, "convert") and hasattr(
        source, "size"
    ):  # a PIL image, recognised without importing PIL
        return _fit_pil(source, spec, fit)
    raise UsageError(
        f"An image must be a path, a PIL image or a uint8 array; got {type(source).__name__}."
    )


def find_images(folder: str | os.PathLike) -> list[Path]:
    """Image files below a folder, sorted by path.

    Raises:
        UsageError: there are none.
        PermissionError: the folder can't be read.
    """
    os.listdir(folder)  # rglob passes over what it may not read
    files = sorted(
        p for p in Path(folder).rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()
    )
    if not files:
        raise UsageError(f"No images in {folder} (looked for {', '.join(EXTENSIONS)}).")
    return files


def open_image(path: str | os.PathLike):
    """Open and decode an image file as a PIL image, bounded in size. Raises like :func:`load_image`."""
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
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise VitsdError(
                f"{path} has {width}x{height} pixels; more than {MAX_PIXELS:,} are refused."
            )
        image.load()
    except FileNotFoundError as error:
        raise UsageError(f"There is no image at {path}.") from error
    except Image.DecompressionBombError as error:
        raise VitsdError(
            f"{path} has too many pixels; more than {MAX_PIXELS:,} are refused."
        ) from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        OverflowError,
    ) as error:  # what Pillow raises for broken files
        raise VitsdError(f"{path} can't be read as an image: {error}.") from error
    return image


def _fit_pil(image, spec, fit: str) -> np.ndarray:
    from PIL import Image, ImageOps

    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise VitsdError(
            f"The image has {image.size[0]}x{image.size[1]} pixels; more than {MAX_PIXELS:,} are refused."
        )
    height, width, channels = spec.input_size
    with contextlib.suppress(
        Exception
    ):  # broken EXIF data raise many kinds of errors; then the image is taken as it is
        image = ImageOps.exif_transpose(image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith(
        "I"
    ):  # 16 bits a pixel, as "I;16" or widened to 32; Pillow's own conversion would clip
        array = np.asarray(image).astype(np.int64)
        if array.min() < 0 or array.max() > 0xFFFF:
            raise VitsdError(
                "32-bit integer images are not supported: save the image with 8 or 16 bits per channel."
            )
        image = Image.fromarray((array >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise VitsdError(
            "Floating-point images are not supported: save the image with 8 or 16 bits per channel."
        )
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    image = image.convert(mode)
    if image.size != (width, height):
        box = (
            _crop_box(image.size[1], image.size[0], height, width)
            if fit == "crop"
            else (0, 0, *image.size)
        )
        image = image.resize(
            (width, height), Image.Resampling.BILINEAR, box=box
        )  # antialiased when shrinking
    return np.asarray(image).reshape(height, width, channels)


def _fit_array(array: np.ndarray, spec, fit: str) -> np.ndarray:
    height, width, channels = spec.input_size
    if array.dtype != np.uint8:
        raise UsageError(
            f"Image arrays must be uint8 with values 0-255; got {array.dtype}. Scale values in 0..1 by 255, remove NaN, "
            "round, and convert with .astype(numpy.uint8)."
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
    if array.shape[2] < channels:
        array = np.repeat(array, channels, axis=2)
    elif array.shape[2] > channels:  # colour to grey with Pillow's weights (ITU-R 601)
        array = ((array @ np.array([19595, 38470, 7471]) + 0x8000) >> 16).astype(np.uint8)[
            :, :, None
        ]
    if array.shape[:2] != (height, width):
        old_height, old_width, _ = array.shape
        whole = (0.0, 0.0, float(old_width), float(old_height))
        left, top, right, bottom = (
            _crop_box(old_height, old_width, height, width) if fit == "crop" else whole
        )
        rows = antialiased_resize_matrix(old_height, height, top, bottom)
        columns = antialiased_resize_matrix(old_width, width, left, right)
        narrow = rows @ array.reshape(old_height, old_width * channels).astype(np.float32)
        array = columns @ narrow.reshape(height, old_width, channels)
        array = np.clip(np.rint(array), 0, 255).astype(np.uint8)
    return array


def _crop_box(
    height: int, width: int, new_height: int, new_width: int
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the largest central part with the aspect ratio ``new_width : new_height``."""
    scale = min(height / new_height, width / new_width)
    crop_height, crop_width = new_height * scale, new_width * scale
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height
