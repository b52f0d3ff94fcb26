"""One resizing for files, PIL images and arrays: Pillow's, to the bit."""

import contextlib
import io
import sys
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitsd_runtime.images import antialias
from vitsd_runtime.images.antialias import center_crop, resize
from vitsd_runtime.images.loading import load_image

sides = st.integers(1, 200)


def pillows(image: Image.Image, height, width, box):
    """Along the rows first, as Pillow did for all images until version 12."""
    left, top, right, bottom = box
    narrow = image.resize(
        (width, image.height), Image.Resampling.BILINEAR, (left, 0, right, image.height)
    )
    return narrow.resize((width, height), Image.Resampling.BILINEAR, (0, top, width, bottom))


def saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@contextlib.contextmanager
def chosen_anew(change):
    """What resizes is chosen under a change of Pillow."""
    antialias.choose_resizer.cache_clear()
    try:
        with change:
            yield
    finally:
        antialias.choose_resizer.cache_clear()


@given(sides, sides, st.sampled_from([1, 3]), sides, sides, st.booleans(), st.integers(0, 2**32))
@settings(max_examples=80)
@example(480, 200, 3, 32, 32, False, 0)  # tall: Pillow 13 goes down the columns first
@example(200, 480, 3, 32, 32, True, 0)
@example(1, 3000, 3, 32, 32, False, 0)
@example(3000, 1, 1, 7, 5, True, 0)
@example(1, 1, 3, 150, 190, False, 0)
@example(402, 241, 1, 1, 26, True, 0)  # rounding led out of the image
@example(2200, 2000, 3, 32, 48, True, 1)
def test_files_pil_images_and_arrays_are_resized_as_by_pillow_to_the_bit(
    height, width, channels, new_height, new_width, crop, seed
):
    random = np.random.default_rng(seed)
    # Noise, or only the extremes.
    levels = 256 if seed % 2 else 2
    array = random.integers(0, levels, (height, width, channels)) * (255 // (levels - 1))
    array = array.astype(np.uint8)
    image = Image.fromarray(array.squeeze(2) if channels == 1 else array)
    box = (0.0, 0.0, float(width), float(height))
    if crop:
        box = center_crop((0, 0, width, height), (new_height, new_width))
    expected = np.asarray(pillows(image, new_height, new_width, box))
    size, mode = (new_height, new_width, channels), "crop" if crop else "stretch"
    for source in (array, image, saved(image)):
        np.testing.assert_array_equal(load_image(source, size, mode), expected.reshape(size))
    with chosen_anew(mock.patch.dict(sys.modules, PIL=None)):
        np.testing.assert_array_equal(load_image(array, size, mode), expected.reshape(size))


def test_a_pillow_that_rounds_in_another_way_is_not_used():
    array = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    expected = load_image(array, (32, 32, 3))
    resize_of_pillow = Image.Image.resize

    def resize_otherwise(image, *rest):
        return resize_of_pillow(image, *rest).point(lambda level: min(level + 1, 255))

    with chosen_anew(mock.patch.object(Image.Image, "resize", resize_otherwise)):
        for source in (array, saved(Image.fromarray(array))):
            np.testing.assert_array_equal(load_image(source, (32, 32, 3)), expected)


@pytest.mark.parametrize("width", [3_649, 98_127, 100_000])
@pytest.mark.parametrize("modules", [{}, {"PIL": None}])
def test_rounded_weights_do_not_change_white(width, modules):
    white = np.full((3, width, 1), 255, np.uint8)
    box = (0.0, 0.0, float(width), 3.0)
    with chosen_anew(mock.patch.dict(sys.modules, modules)):
        result = resize(lambda start, stop: white[start:stop], (3, width), (2, 1), box)
    assert (result == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["stretch", "crop"])
def test_turned_photos_are_resized_upright(photo, orientation, mode):
    undo = [
        *(None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180),
        *(Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90),
        *(Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270),
    ][orientation - 1]
    upright = Image.fromarray(photo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    (upright if undo is None else upright.transpose(undo)).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(
        load_image(file.getvalue(), (32, 24, 3), mode), load_image(photo, (32, 24, 3), mode)
    )


def test_parts_of_large_images_fit_together():
    array = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    expected = np.asarray(pillows(Image.fromarray(array), 40, 50, (0, 0, 900, 700)))
    transparent = np.dstack([array, np.full((700, 900), 255, np.uint8)])  # converted part by part
    for source in (array, saved(Image.fromarray(array)), saved(Image.fromarray(transparent))):
        np.testing.assert_array_equal(load_image(source, (40, 50, 3)), expected)
