"""JPEGs that are decoded at a smaller scale."""

import io

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime.images.decoding import decode
from vitsd_runtime.images.loading import load_for_model, load_image

SIZE = (32, 24, 3)


def smooth(width, height):
    """A picture without noise, so that any good reduction shows the same."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(5 * x + 3 * y + shift) for shift in range(3)]
    return Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("least_side", "scale"), [(None, 1), (201, 1), (200, 2), (99.5, 4), (50.5, 4), (1, 8)]
)
def test_the_smallest_scale_that_is_large_enough_is_taken(least_side, scale):
    image, filled = decode(encoded(smooth(500, 400)), "a", least_side=least_side)
    assert filled == (500 / scale, 400 / scale)
    assert image.size == (-(-500 // scale), 400 // scale)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("resize_mode", ["stretch", "crop"])
def test_it_shows_what_the_whole_image_shows(mode, options, resize_mode):
    content = encoded(smooth(530, 410).convert(mode), quality=95, **options)
    full = load_image(content, SIZE, resize_mode)
    reduced = load_image(content, SIZE, resize_mode, reducing_gap=2)
    assert 0 < np.abs(full.astype(int) - reduced).max() <= 3


def test_a_path_is_its_content_and_a_turned_image_is_upright(tmp_path, spec):
    picture = smooth(640, 480)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "a.jpg").write_bytes(encoded(turned, exif=exif, quality=95))
    spec = spec.replace(reducing_gap=2)
    by_path = load_for_model(tmp_path / "a.jpg", spec)
    np.testing.assert_array_equal(load_for_model((tmp_path / "a.jpg").read_bytes(), spec), by_path)
    upright = load_for_model(encoded(picture, "PNG"), spec)
    assert np.abs(upright.astype(int) - by_path).max() <= 3


def test_what_is_no_large_jpeg_file_stays_as_it_is():
    picture = smooth(500, 400)
    for source in (
        encoded(picture, "PNG"),
        encoded(picture, "WEBP", lossless=True),
        encoded(smooth(50, 60)),
        picture,
        np.asarray(picture),
    ):
        np.testing.assert_array_equal(
            load_image(source, SIZE, reducing_gap=2), load_image(source, SIZE)
        )
