"""Image files as they come: all modes, turned, huge, broken."""

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


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path, spec):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(VitsdError, match="pixels"):
        load_image(tmp_path / "bomb.png", spec.input_size)


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


@pytest.mark.parametrize("source", [None, 3, b"bytes", ["nested"]])
def test_what_is_no_image_is_refused(spec, source):
    with pytest.raises(UsageError):
        load_image(source, spec.input_size)


def test_a_missing_file_is_misuse(tmp_path, spec):
    with pytest.raises(UsageError, match="no image at"):
        load_image(tmp_path / "none.png", spec.input_size)
