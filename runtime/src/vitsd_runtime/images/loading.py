"""Photos of any size and mode to uint8 arrays of a model's input size.

Pillow is needed for image files and PIL images only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images import antialias
from vitsd_runtime.images.decoding import DecodedImage, check_side, decode
from vitsd_runtime.images.kinds import ENDINGS
from vitsd_runtime.images.reading import is_encoded, name_of, read_encoded
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import (
    RESIZE_MODES,
    AnyArray,
    PathLike,
    ResizeMode,
    UInt8Array,
    ValueRange,
)
from vitsd_runtime.validation import check_value_range


def load_image(
    source: Any,
    input_size: tuple[int, int, int],
    resize_mode: ResizeMode = "stretch",
    value_range: ValueRange | None = None,
    max_pixels: int | None = None,
    reducing_gap: float | None = None,
) -> UInt8Array:
    """Bring one image to a model's input size.

    Files and PIL images are turned upright (EXIF), transparent ones laid on white, animations
    represented by their first frame, then converted to RGB (or gray, for a one-channel model).
    Values are scaled to 0-255. Images of another size are resized with antialiasing. The same
    pixels give the same result, to the bit, as a file, a PIL image or an array; but for JPEG files
    that are decoded at a smaller scale.

    Args:
        source: an image file: its path, its content as bytes, or the open file (binary); a PIL
            image; or an array ``(height, width[, channels])`` of uint8 or uint16 with 1 channel or
            3. Arrays are RGB: OpenCV's frames are BGR, so turn them,
            ``cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)``.
        input_size: height, width and channels (1 or 3) of the result.
        resize_mode: ``crop`` takes the central part with the right aspect ratio, ``stretch`` the
            whole image.
        value_range: the values that become 0 and 255; others linearly, those outside to the nearer
            one. None: by the type, 0-255 or, for 16 bits, 0-65535. With it, images of any numeric
            type are taken, such as 12-bit values in 16-bit files, 32-bit ones or fractions.
        max_pixels: of the image as it comes; by default as many as memory allows
            (:data:`vitsd_runtime.images.decoding.MAX_DECODED_BYTES`).
        reducing_gap: decode JPEG files at the smallest scale that leaves their shorter side this
            many times the longer one of ``input_size``; None: in full.

    Returns:
        uint8 array of shape ``input_size``.

    Raises:
        VitsdError: the image can't be read, or is too large.
        UsageError: a wrong option, dtype or shape, or the path does not exist.
    """
    if resize_mode not in RESIZE_MODES:
        raise UsageError(
            f"resize_mode must be one of {', '.join(RESIZE_MODES)}; got {resize_mode!r}."
        )
    if value_range is not None:
        value_range = check_value_range(value_range)
    try:
        least_side = None if reducing_gap is None else reducing_gap * max(input_size[:2])
        image = _open(source, input_size[2] == 1, value_range, max_pixels, least_side)
        pixels = _fit(image, input_size, resize_mode, value_range, name_of(source))
    except MemoryError as error:
        raise VitsdError(f"{name_of(source)} needs more memory than there is.") from error
    return pixels if pixels.shape == input_size else np.repeat(pixels, input_size[2], axis=2)


def load_for_model(
    source: Any,
    spec: ModelSpec,
    resize_mode: ResizeMode | None = None,
    max_pixels: int | None = None,
) -> UInt8Array:
    """:func:`load_image` as a model's spec says.

    Args:
        source: as for :func:`load_image`.
        spec: of the model.
        resize_mode: instead of the spec's.
        max_pixels: as for :func:`load_image`.

    Returns:
        uint8 array of shape ``spec.input_size``.

    Raises:
        UsageError, VitsdError: as for :func:`load_image`.
    """
    mode = resize_mode or spec.resize_mode
    return load_image(
        source, spec.input_size, mode, spec.value_range, max_pixels, spec.reducing_gap
    )


def is_image_file(path: PathLike) -> bool:
    """Whether a file name has the ending of an image."""
    return Path(path).suffix.lower() in ENDINGS


def is_single_image(value: Any) -> bool:
    """Whether ``value`` stands for one image, rather than for several."""
    return is_encoded(value) or is_pil_image(value)


def is_pil_image(value: Any) -> bool:
    """Whether ``value`` is a PIL image, told without importing PIL."""
    return hasattr(value, "convert") and hasattr(value, "size")


class _Image(Protocol):
    height: int
    width: int
    picture: antialias.Box
    """The part that holds the picture: all, but in JPEGs of a smaller scale."""
    ready: bool
    """Whether reading all rows at once copies none of them."""

    def rows(self, start: int, stop: int) -> Any:
        """Rows ``start`` to ``stop``: a PIL image of mode L or RGB, or the image's own values.

        The latter as an array ``(rows, width[, channels])``.
        """


def native(array: AnyArray) -> AnyArray:
    """The same values in this machine's byte order: files of other machines have the other one."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


class _ArrayImage:
    ready = False

    def __init__(self, array: AnyArray, value_range: ValueRange | None) -> None:
        array = native(array)
        numeric = value_range is not None and array.dtype.kind in "uif"
        if array.dtype not in (np.uint8, np.uint16) and not numeric:
            raise UsageError(
                f"Image arrays must be uint8 (0-255) or uint16 (0-65535); got {array.dtype}. "
                "Fractions in 0..1: numpy.rint(255 * numpy.clip(numpy.nan_to_num(image), 0, 1))"
                ".astype(numpy.uint8). Other numbers in 0..255: numpy.clip(image, 0, 255)"
                ".astype(numpy.uint8)."
            )
        if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)) or not array.size:
            raise UsageError(
                f"An image array must be (height, width[, 1 or 3]); got shape {array.shape}."
                + _advice_on_shape(array.shape)
            )
        self.height, self.width = array.shape[:2]
        check_side(self.width, self.height, "The image")
        self.picture = (0.0, 0.0, float(self.width), float(self.height))
        self._array = array

    def rows(self, start: int, stop: int) -> AnyArray:
        return self._array[start:stop]


def _advice_on_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return " The content of a file is passed as bytes."
    if shape[2:] == (4,):
        return " Drop the transparency: image[..., :3]."
    if len(shape) == 3 and shape[0] in (1, 3):
        return " Colors come last: numpy.moveaxis(image, 0, -1)."
    return ""


def _open(
    source: Any,
    gray: bool,
    value_range: ValueRange | None,
    max_pixels: int | None,
    least_side: float | None,
) -> _Image:
    if isinstance(source, np.ndarray):
        return _ArrayImage(np.asarray(source), value_range)  # a matrix has rows of two dimensions
    name = name_of(source)
    if is_encoded(source):
        all_bits = value_range is not None
        decoded = decode(read_encoded(source), name, all_bits, max_pixels, least_side)
        return DecodedImage(decoded[0], gray, name, decoded[1])
    if is_pil_image(source):
        return DecodedImage(source, gray, name)
    numbers = isinstance(source, (list, tuple)) or hasattr(source, "__array__")
    raise UsageError(
        "An image must be a file (its path, its content as bytes, or open in binary mode), a PIL "
        f"image or a NumPy array; got {type(source).__name__}."
        + (" Tensors and lists of numbers: numpy.asarray(image, numpy.uint8)." if numbers else "")
    )


def _fit(
    image: _Image,
    input_size: tuple[int, int, int],
    resize_mode: ResizeMode,
    value_range: ValueRange | None,
    name: str,
) -> UInt8Array:
    """uint8 ``(height, width, 1 or 3)``, as many channels as the image has or the model takes."""

    def rows(start: int, stop: int) -> Any:
        part = image.rows(start, stop)
        if is_pil_image(part) and value_range is None:
            return part
        pixels = _to_8_bits(antialias.as_array(part), value_range, name)
        return _to_gray(pixels) if input_size[2] < pixels.shape[2] else pixels

    size, new_size = (image.height, image.width), input_size[:2]
    if size == new_size:
        return antialias.as_array(rows(0, image.height))
    box = image.picture
    if resize_mode == "crop":
        box = antialias.center_crop(box, new_size)
    whole = image.ready and value_range is None
    return antialias.resize(rows, size, new_size, box, whole)


def _to_8_bits(values: AnyArray, value_range: ValueRange | None, name: str) -> UInt8Array:
    if value_range is not None:
        low, high = value_range
        clipped = np.nan_to_num(np.clip(values.astype(np.float64), low, high), nan=low)
        scaled: UInt8Array = np.rint((clipped - low) * (255 / (high - low))).astype(np.uint8)
        return scaled
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise VitsdError(
            f"{name} has values of 32 bits, whole numbers or fractions, which need a "
            "`value_range`: train with it, or save the image with 8 or 16 bits per channel."
        )
    return (values >> 8).astype(np.uint8)


def _to_gray(pixels: UInt8Array) -> UInt8Array:
    """With Pillow's weights (ITU-R 601), in its fixed-point arithmetic."""
    red, green, blue = (pixels[..., i].astype(np.int32) for i in range(3))
    gray: UInt8Array = ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)
    return gray[..., None]
