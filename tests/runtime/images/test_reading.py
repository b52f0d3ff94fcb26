"""Ways to hand over an image file, and what is said of those that are none."""

import io
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime import UsageError, VitsdError
from vitsd_runtime.images import reading
from vitsd_runtime.images.loading import is_single_image, load_image

SIZE = (12, 16, 3)


@pytest.fixture
def path(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_paths_bytes_and_open_files_are_the_same_image(path, photo):
    expected = load_image(photo, SIZE)
    content = path.read_bytes()
    with open(path, "rb") as opened, open(path, "rb", buffering=0) as unbuffered:
        sources = [path, str(path), content, bytearray(content), memoryview(content)]
        for source in [*sources, io.BytesIO(content), opened, unbuffered]:
            assert is_single_image(source)
            np.testing.assert_array_equal(load_image(source, SIZE), expected)


def test_pipes_that_are_named_are_read(path, photo, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = path.read_bytes() + bytes(200_000)  # more than a pipe holds
    writer = threading.Thread(target=lambda: pipe.write_bytes(content))
    writer.start()
    np.testing.assert_array_equal(load_image(pipe, SIZE), load_image(photo, SIZE))
    writer.join()


@pytest.mark.parametrize(
    "url", ["http://a.b/c.jpg", "HTTPS://a.b", "s3://bucket/c.jpg", "data:image/png;base64,iVBO"]
)
def test_urls_are_to_be_downloaded_first(url):
    with pytest.raises(UsageError, match="download it first"):
        load_image(url, SIZE)


def test_what_can_not_be_read_says_why(path, tmp_path):
    at_its_end = io.BytesIO(path.read_bytes())
    at_its_end.read()
    with pytest.raises(VitsdError, match=r"seek\(0\)"):
        load_image(at_its_end, SIZE)
    with open(path, encoding="latin-1") as text, pytest.raises(UsageError, match="binary mode"):
        load_image(text, SIZE)
    with pytest.raises(VitsdError, match="is empty"):
        load_image(b"", SIZE)
    with pytest.raises(VitsdError, match=r"can't be read: Is a directory"):
        load_image(tmp_path, SIZE)
    with pytest.raises(UsageError, match="no image at"):
        load_image(path / "below", SIZE)
    with pytest.raises(UsageError, match="path of an image is empty"):
        load_image("", SIZE)
    with pytest.raises(UsageError, match="no image at"):
        load_image("nul\0character", SIZE)
    with pytest.raises(UsageError, match="passed as bytes"):
        load_image(np.frombuffer(path.read_bytes(), np.uint8), SIZE)


def test_files_that_can_not_be_read_on_are_failures(tmp_path):
    closed = io.BytesIO(b"x")
    closed.close()
    broken = SimpleNamespace(read=lambda _: os.read(-1, 1))
    with open(tmp_path / "new.png", "wb") as written:
        for file, said in ((closed, "closed"), (written, "new.png"), (broken, "descriptor")):
            with pytest.raises(VitsdError, match=f"can't be read: .*{said}|{said} can't be read"):
                load_image(file, SIZE)


def test_a_file_without_a_name_is_not_called_by_its_number():
    read, write = os.pipe()
    os.close(write)
    with open(read, "rb") as file, pytest.raises(VitsdError, match="The image is empty"):
        load_image(file, SIZE)


@pytest.mark.parametrize("length", [8, 40])
def test_the_beginning_of_an_image_is_one_that_is_damaged(path, length):
    with pytest.raises(VitsdError, match="begins like a PNG file, but is damaged or cut off"):
        load_image(path.read_bytes()[:length], SIZE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC photo.*heif-convert"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"\x13\x37 something", "no known format"),
        (b"\0\0\1\0\1\0", "an icon"),
        (b"\0\0\2\0\0\0", "no known format"),  # TGA, which begins like an icon
    ],
)
def test_files_that_are_no_images_say_what_they_are_and_what_is_accepted(tmp_path, content, said):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(VitsdError, match=rf"a\.jpg can't be read as an image: .*{said}") as error:
        load_image(tmp_path / "a.jpg", SIZE)
    assert "accepted: PNG, JPEG" in str(error.value)


def test_only_the_preview_of_a_raw_file_is_not_taken_for_it(path, tmp_path):
    Image.open(path).save(tmp_path / "a.dng", "TIFF")
    with pytest.raises(VitsdError, match="RAW"):
        load_image(tmp_path / "a.dng", SIZE)


def test_names_of_the_outside_are_made_printable(tmp_path):
    (tmp_path / "a\n\x1b[2J.png").write_bytes(b"no image")
    for name in ("a\n\x1b[2J.png", "missing\n.png"):
        with pytest.raises(VitsdError) as error:
            load_image(tmp_path / name, SIZE)
        assert str(error.value).isprintable()


def test_large_files_are_refused_before_they_are_read(tmp_path, monkeypatch):
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(reading.MAX_FILE_BYTES + 1)  # takes no space
    monkeypatch.setattr(reading, "_read_all", lambda *_: pytest.fail("it was read"))
    with pytest.raises(VitsdError, match="more than 256 MiB are refused"):
        load_image(tmp_path / "sparse.png", SIZE)


def test_endless_files_are_read_up_to_the_limit(monkeypatch):
    class Endless:
        total = 0

        def read(self, size):
            self.total += size
            return bytes(size)

    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 5_000_000)
    endless = Endless()
    with pytest.raises(VitsdError, match="refused"):
        load_image(endless, SIZE)
    assert endless.total == 5_000_001
