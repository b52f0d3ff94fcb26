"""Limits of images: each is met before anything is decoded."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from vitsd_runtime import VitsdError
from vitsd_runtime.images import decoding, loading
from vitsd_runtime.images.loading import load_image

SIZE = (8, 8, 3)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def with_scans(image, count):
    """A progressive JPEG whose last scan is repeated."""
    content = encoded(image, "JPEG", progressive=True)
    last, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    return content[:end] + content[last:end] * (count - 10) + content[end:]


def test_long_sides_are_refused():
    limit = decoding.MAX_PHOTO_SIDE
    assert load_image(encoded(Image.new("1", (limit, 1)), "PNG"), SIZE).shape == SIZE
    for size in ((limit + 1, 1), (1, limit + 1)):
        with pytest.raises(VitsdError, match="on a side"):
            load_image(encoded(Image.new("1", size), "PNG"), SIZE)
    with pytest.raises(VitsdError, match="on a side"):
        load_image(np.zeros((1, limit + 1), np.uint8), SIZE)


def test_a_small_file_with_very_many_pixels_is_refused(monkeypatch):
    # Fewer than those at which Pillow itself raises an error, and more than where it warns.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 143_000_000)
    content = encoded(Image.new("1", (13_000, 11_000)), "PNG")
    assert len(content) < 100_000
    with pytest.raises(VitsdError, match="512 MiB of memory"):
        load_image(content, SIZE)


def test_the_limit_is_on_memory_by_format(monkeypatch):
    image = Image.new("RGB", (100, 100), "red")
    monkeypatch.setattr(decoding, "MAX_DECODED_BYTES", 100 * 100 * 8)
    for format in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM"):
        assert load_image(encoded(image, format), SIZE).shape == SIZE
    thumbnail = encoded(image, "JPEG")  # its scan is none of the photo's
    photo = encoded(image, "JPEG", comment=thumbnail)
    assert load_image(photo, SIZE).shape == SIZE
    for content in (encoded(image, "WEBP"), encoded(image, "JPEG", progressive=True)):
        with pytest.raises(VitsdError, match="of memory are refused"):
            load_image(content, SIZE)


def test_tiles_that_are_larger_than_their_image_count():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    long = 4
    for tag, value in ((65_000, 2**20), (65_001, 2**10)):
        tags[tag], tags.tagtype[tag] = value, long
    content = encoded(Image.new("L", (100, 100)), "TIFF", tiffinfo=tags)
    assert load_image(content, SIZE).shape == SIZE
    for tag, tile_side in ((65_000, 322), (65_001, 323)):
        content = content.replace(
            struct.pack("<HH", tag, long), struct.pack("<HH", tile_side, long)
        )
    with pytest.raises(VitsdError, match="of memory are refused"):
        load_image(content, SIZE)


def test_jpegs_of_very_many_scans_are_refused():
    image = Image.new("RGB", (1000, 1000))
    assert load_image(with_scans(image, 12), SIZE).shape == SIZE
    with pytest.raises(VitsdError, match="1001 scans"):
        load_image(with_scans(image, 1001), SIZE)


def with_scans_by_color(image, count):
    """A JPEG that is not progressive, with a scan of its own for each color, over and over."""
    content = encoded(image.convert("L"), "JPEG")
    frame, tables, scan = (content.index(b"\xff" + mark) for mark in (b"\xc0", b"\xc4", b"\xda"))
    sides = content[frame + 4 : frame + 9]
    colors = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    scans = b"".join(
        content[scan : scan + 5] + bytes([1 + i % 3]) + content[scan + 6 : -2] for i in range(count)
    )
    frame_of_three = b"\xff\xc0" + struct.pack(">H", 17) + sides + b"\3" + colors
    return content[:frame] + frame_of_three + content[tables:scan] + scans + content[-2:]


@pytest.mark.parametrize(
    ("marker", "before"), [(b"\xff\xff\xfe", b"0"), (b"\xff\xd0\xff\xef", b""), (b"\xff\xfe", b"")]
)
def test_scans_are_counted_wherever_a_comment_looks_like_the_only_one(marker, before):
    image = Image.new("RGB", (1000, 1000), "gray")
    content = with_scans_by_color(image, 3)
    assert load_image(content, SIZE).shape == SIZE
    # Whoever takes the second FF, or D0, for a marker with a length, comes to the second of these.
    comment = before + b"\xff\xda\0\x0c\3" * 13_106
    comment = marker + struct.pack(">H", 2 + len(comment)) + comment
    content = with_scans_by_color(image, 1001)
    with pytest.raises(VitsdError, match=r"in \d+ scans"):
        load_image(content[:2] + comment + content[2:], SIZE)


def test_what_takes_pillow_very_long_is_refused():
    side = int((decoding.MAX_SLOW_VALUES / 3) ** 0.5) + 2
    numbers = b"P3\n%d %d\n255\n" % (side, side) + b"1 " * (3 * side * side)
    with pytest.raises(VitsdError, match="save it as PNG"):
        load_image(numbers, SIZE)
    small = io.BytesIO()
    Image.new("P", (10, 10)).save(small, "BMP")
    header = bytearray(small.getvalue()[: 14 + 40 + 4 * 256])
    header[30] = 1  # run-length encoding: a jump to nowhere, over and over
    with pytest.raises(VitsdError, match="save it as PNG"):
        load_image(bytes(header) + b"\0\2\0\0" * (decoding.MAX_SLOW_VALUES + 1), SIZE)


@pytest.mark.parametrize("place", ["read", "decode", "fit"])
def test_too_little_memory_is_the_images_own_failure(monkeypatch, tmp_path, place):
    def fail(*_, **__):
        raise MemoryError

    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    step = {
        "read": (loading, "read_encoded"),
        "decode": (Image, "open"),
        "fit": (loading.antialias, "resize"),
    }
    monkeypatch.setattr(*step[place], fail)
    with pytest.raises(VitsdError, match=r"a\.png needs more memory than there is"):
        load_image(tmp_path / "a.png", SIZE)


@pytest.mark.parametrize("error", [KeyError("x\n\x1b[0m"), ZeroDivisionError(), AttributeError()])
def test_whatever_pillow_raises_is_one_unreadable_image(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(VitsdError, match="can't be read as an image") as raised:
        load_image(encoded(Image.new("RGB", (9, 9)), "PNG"), SIZE)
    assert str(raised.value).isprintable()


def test_the_first_picture_of_a_phones_photo_is_taken():
    first, second = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (10, 10), "blue")
    content = encoded(first, "MPO", save_all=True, append_images=[second])
    assert load_image(content, SIZE)[0, 0, 0] > 200


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(photo):
    content = encoded(Image.fromarray(photo), "AVIF", quality=100)
    difference = load_image(content, (32, 24, 3)).astype(int) - load_image(photo, (32, 24, 3))
    assert np.abs(difference).max() < 20


def test_a_format_that_this_pillow_lacks_is_named(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "WEBP", raising=False)
    monkeypatch.setattr(Image, "init", lambda: None)
    with pytest.raises(VitsdError, match="knows no WEBP"):
        load_image(b"RIFF\0\0\0\0WEBPVP8 ", SIZE)
