"""Image files as they come: all modes, turned, huge, broken."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime import UsageError, VitsdError
from vitsd_runtime.images.loading import load_image

SIZE = (24, 32)  # width, height of the fixture's input size


@pytest.fixture
def picture(photo):
    return Image.fromarray(photo).resize(SIZE, Image.Resampling.BILINEAR)


def close(a, b, tolerance=3):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= tolerance


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path, spec, picture):
    picture.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), picture, np.asarray(picture)):
        np.testing.assert_array_equal(load_image(source, spec.input_size), np.asarray(picture))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "YCbCr", "I;16"])
def test_modes(tmp_path, spec, picture, mode):
    if mode == "I;16":
        grey = picture.convert("L")
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        path, expected = tmp_path / "a.png", grey.convert("RGB")
    elif mode == "CMYK":
        image, path, expected = picture.convert("CMYK"), tmp_path / "a.tif", picture
    elif mode == "YCbCr":
        image, path, expected = picture.convert("YCbCr"), tmp_path / "a.tif", picture
    else:
        image, path = picture.convert(mode), tmp_path / "a.png"
        expected = image.convert("RGB")
    # Uncompressed, Pillow 11 can't read its own YCbCr files.
    image.save(path, compression="tiff_lzw" if mode == "YCbCr" else None)
    assert close(load_image(path, spec.input_size), expected)


def test_transparent_pixels_are_laid_on_white(tmp_path, spec):
    Image.new("RGBA", SIZE, (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_image(tmp_path / "clear.png", spec.input_size) == 255).all()
    palette = Image.new("P", SIZE, 0)
    palette.putpalette([10, 20, 30] * 256)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (load_image(tmp_path / "palette.png", spec.input_size) == 255).all()


def test_an_animation_stands_for_its_first_frame(tmp_path, spec):
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert close(
        load_image(tmp_path / "a.gif", spec.input_size), np.broadcast_to((255, 0, 0), (32, 24, 3))
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(tmp_path, spec, picture, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture.transpose(undo[orientation]) if orientation > 1 else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(
        load_image(tmp_path / "a.png", spec.input_size), np.asarray(picture)
    )


def test_broken_orientation_data_do_not_matter(tmp_path, spec, picture):
    picture.save(
        tmp_path / "a.png", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12garbage"
    )
    np.testing.assert_array_equal(
        load_image(tmp_path / "a.png", spec.input_size), np.asarray(picture)
    )


def test_formats_that_start_other_programs_are_not_opened(tmp_path, spec):
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    )
    with pytest.raises(VitsdError, match="can't be read as an image"):
        load_image(tmp_path / "a.png", spec.input_size)


def test_an_unknown_fit_is_refused(spec, picture):
    with pytest.raises(UsageError, match="stretch, crop"):
        load_image(picture, spec.input_size, "squash")


def test_grey_models_get_grey_images(tmp_path, spec, picture):
    grey = spec.replace(input_size=(32, 24, 1), mean=(1.0,), variance=(1.0,))
    picture.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", grey.input_size).shape == (32, 24, 1)
    assert load_image(np.asarray(picture.convert("L")), grey.input_size).shape == (32, 24, 1)
    np.testing.assert_array_equal(
        load_image(np.asarray(picture), grey.input_size), load_image(picture, grey.input_size)
    )


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "folder"])
def test_unreadable_files_are_named(tmp_path, spec, picture, damage):
    path = tmp_path / "a.jpg"
    picture.resize((200, 200)).save(path)
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        content = {"empty": b"", "text": b"not an image", "cut": path.read_bytes()[:400]}[damage]
        path.write_bytes(content)
    with pytest.raises(VitsdError, match=r"a\.jpg"):
        load_image(path, spec.input_size)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.full((8, 8, 3), np.nan),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8, 3), np.int16),
        np.zeros((8, 8, 3), bool),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
    ],
)
def test_arrays_of_a_wrong_kind_are_refused(spec, array):
    with pytest.raises(UsageError, match="array"):
        load_image(array, spec.input_size)


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"moveaxis\(image, 0, -1\)"),
        (np.zeros((8, 8, 4), np.uint8), "transparency"),
        ([[0, 255], [0, 255]], r"numpy\.asarray"),
        (Image.new("RGB", (0, 5)), "empty"),
    ],
)
def test_what_is_nearly_an_image_is_refused_with_advice(spec, source, advice):
    with pytest.raises(VitsdError, match=advice):
        load_image(source, spec.input_size)


def test_kinds_of_arrays_do_not_matter(spec, picture):
    pixels = np.asarray(picture.convert("L"))
    expected = load_image(pixels, spec.input_size)
    wide = np.zeros((2 * pixels.shape[0], 2 * pixels.shape[1]), np.uint8)
    wide[::2, ::2] = pixels
    for array in (
        np.asfortranarray(pixels),
        pixels[::-1].copy()[::-1],
        wide[::2, ::2],
        pixels.view(np.matrix),
        np.ma.masked_array(pixels, mask=pixels > 9),
        (pixels.astype(">u2") * 257),
    ):
        np.testing.assert_array_equal(load_image(array, spec.input_size), expected)


@pytest.mark.parametrize("source", [None, 3, ["nested"]])
def test_what_is_no_image_is_refused(spec, source):
    with pytest.raises(UsageError):
        load_image(source, spec.input_size)


def test_a_missing_file_is_misuse(tmp_path, spec):
    with pytest.raises(UsageError, match="no image at"):
        load_image(tmp_path / "none.png", spec.input_size)


def test_the_advice_for_fractions_and_other_numbers_wraps_nothing_around(spec):
    for array in (np.array([[0.0, 1.0, 1.5, np.nan]]), np.array([[0, 255, 256, -1]])):
        with pytest.raises(UsageError) as error:
            load_image(array, spec.input_size)
        advice = re.findall(r"numpy\.\w+\(.*?\)\.astype\(numpy\.uint8\)", str(error.value))
        code = advice[0 if array.dtype.kind == "f" else 1]
        result = eval(code, {"numpy": np, "image": array})
        np.testing.assert_array_equal(result, [[0, 255, 255, 0]])


@pytest.mark.parametrize("value_range", [None, (0, 4095)])
def test_the_byte_order_of_an_array_makes_no_difference(value_range):
    array = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    big, little = (
        load_image(array.astype(order), (6, 8, 1), value_range=value_range)
        for order in (">u2", "<u2")
    )
    np.testing.assert_array_equal(big, little)


@pytest.fixture
def deep(spec):
    """A gray image of 16 bits with values of 12, of the input size and larger."""
    values = np.arange(64 * 48).reshape(64, 48) * 4096 // (64 * 48)
    return values.astype(np.uint16)


def encoded(array, format="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize("value_range", [None, (0, 4095), (1000, 3000.5), (-5, 70000)])
@pytest.mark.parametrize("size", [(64, 48, 1), (64, 48, 3), (20, 30, 3)])
def test_arrays_of_16_bits_are_taken_as_files_of_16_bits_are(deep, value_range, size):
    results = [
        load_image(source, size, "stretch", value_range)
        for source in (deep, encoded(deep), encoded(deep, "TIFF"), Image.fromarray(deep))
    ]
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    if value_range is None and size == (64, 48, 1):
        np.testing.assert_array_equal(results[0][..., 0], deep // 256)


def test_a_value_range_is_linear_rounded_and_clipped():
    array = np.array([[0, 1000, 1001, 1500, 2000, 65535]], np.uint16)
    scaled = load_image(array, (1, 6, 1), value_range=(1000, 2000))
    np.testing.assert_array_equal(scaled.ravel(), [0, 0, 0, 128, 255, 255])
    fractions = np.array([[-1, 0.5, 1, np.nan, np.inf]], np.float32)
    scaled = load_image(fractions, (1, 5, 1), value_range=(0, 1))
    np.testing.assert_array_equal(scaled.ravel(), [0, 128, 255, 0, 255])
    bytes_too = np.array([[0, 15, 16]], np.uint8)
    scaled = load_image(bytes_too, (1, 3, 1), value_range=(0, 15))
    np.testing.assert_array_equal(scaled.ravel(), [0, 255, 255])


def test_images_of_32_bits_need_a_value_range(tmp_path):
    values = np.array([[0, 100_000], [200_000, -3]], np.int32)
    for array in (values, values.astype(np.float32)):
        (tmp_path / "a.tif").write_bytes(encoded(array, "TIFF"))
        with pytest.raises(VitsdError, match=r"a\.tif .*`value_range`"):
            load_image(tmp_path / "a.tif", (2, 2, 1))
        scaled = load_image(encoded(array, "TIFF"), (2, 2, 1), value_range=(0, 200_000))
        np.testing.assert_array_equal(scaled[..., 0], [[0, 128], [255, 0]])


def test_colors_of_16_bits_are_not_scaled_as_if_all_of_them_were_there():
    rows = b"\0" + bytes(range(12))  # two pixels of three colors of two bytes

    def chunk(kind, data):
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows))
    content += chunk(b"IEND", b"")
    np.testing.assert_array_equal(load_image(content, (1, 2, 3))[0, 1], [6, 8, 10])
    with pytest.raises(VitsdError, match="can't be read in full"):
        load_image(content, (1, 2, 3), value_range=(0, 4095))


@pytest.mark.parametrize("value_range", [(1, 1), (5, 0), (0, float("nan")), (0,), "ab", 3])
def test_a_value_range_is_two_rising_numbers(value_range):
    image = np.zeros((4, 4), np.uint16)
    with pytest.raises(UsageError, match="two rising numbers"):
        load_image(image, (4, 4, 1), value_range=value_range)
