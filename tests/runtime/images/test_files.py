"""Which files of a folder are images."""

import os

import pytest
from PIL import Image

from vitsd_runtime import UsageError
from vitsd_runtime.images.files import find_images, is_hidden, scan_images
from vitsd_runtime.images.kinds import ENDINGS, image_kind, what_it_is


@pytest.fixture
def image_bytes(tmp_path):
    def make(format: str) -> bytes:
        Image.new("RGB", (8, 6), "red").save(tmp_path / "made", format)
        content = (tmp_path / "made").read_bytes()
        (tmp_path / "made").unlink()
        return content

    return make


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def fill(root, *files, content=b"x"):
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_images_are_found_by_their_endings_in_any_case_sorted(tmp_path):
    fill(tmp_path, "b.JPG", "a/c.Jfif", "a/d/e.png", *(f"z/x{ending}" for ending in ENDINGS))
    scan = scan_images(tmp_path)
    assert names(scan.files, tmp_path)[:3] == ["a/c.Jfif", "a/d/e.png", "b.JPG"]
    assert len(scan.files) == 3 + len(ENDINGS)
    assert scan.describe() is None


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_images_without_an_ending_or_with_an_odd_one_are_told_by_their_content(
    tmp_path, image_bytes, format
):
    content = image_bytes(format)
    fill(tmp_path, "IMG", "photo.jpg_large", "IMG 2020.05", "x.jpg?w=800", content=content)
    fill(tmp_path, "BMW", "notes.txt", content=b"BMW, P1 and GIFs are only words here")
    scan = scan_images(tmp_path)
    assert len(scan.files) == 4
    assert scan.left_out == {"": 1, ".txt": 1}


def test_half_images_copies_and_raw_files_are_left_out(tmp_path, image_bytes):
    content = image_bytes("TIFF")
    fill(tmp_path, "a.jpg.part", "b.png.crdownload", "c.png~", "d.bak", "e.NEF", content=content)
    assert scan_images(tmp_path).files == []


@pytest.mark.parametrize(
    "place",
    [
        *(".hidden.png", "._a.png", ".ipynb_checkpoints/a.png", ".thumbnails/a.png"),
        *("@eaDir/a.png", "@EADIR/a.png", "__MACOSX/cat/a.png", "$RECYCLE.BIN/a.png"),
        *("#recycle/a.png", "lost+found/a.png", "System Volume Information/a.png"),
        *("Thumbs.db", "desktop.ini", ".DS_Store"),
    ],
)
def test_what_systems_put_into_folders_is_passed_over_without_a_word(tmp_path, place):
    fill(tmp_path, f"cat/{place}", "cat/real.png")
    scan = scan_images(tmp_path)
    assert names(scan.files, tmp_path) == ["cat/real.png"]
    assert scan.describe() is None
    assert is_hidden(place.split("/")[0])


def test_the_folder_that_was_named_may_be_hidden(tmp_path):
    fill(tmp_path, ".cache/a.png")
    assert len(scan_images(tmp_path / ".cache").files) == 1


def test_what_is_left_out_is_counted_by_its_ending(tmp_path):
    fill(tmp_path, *(f"{i}.HEIC" for i in range(17)), "a.mp4", "b.mp4", "c.txt", "d.md", "e.png")
    told = scan_images(tmp_path).describe()
    assert told.startswith("17 .heic, 2 .mp4, 1 .")
    assert "1 others left out (accepted: .png, .jpg" in told


def test_a_folder_without_images_says_what_it_holds_instead(tmp_path):
    fill(tmp_path, "a.heic", "b.heic")
    with pytest.raises(UsageError, match=r"No images in .*: 2 \.heic left out \(accepted"):
        find_images(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no files"):
        find_images(tmp_path / "empty")
    with pytest.raises(OSError, match="none"):
        find_images(tmp_path / "none")


def test_links_are_followed_and_loops_end(tmp_path):
    fill(tmp_path, "elsewhere/b.png", "root/sub/a.png")
    root = tmp_path / "root"
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (root / "sub" / "up").symlink_to(root)
    (root / "again").symlink_to(root / "sub")  # found under its own path, and once
    scan = scan_images(root)
    assert names(scan.files, root) == ["linked/b.png", "linked.png", "sub/a.png"]
    assert scan.describe() is None


def test_a_link_to_a_folder_above_leads_nowhere(tmp_path):
    fill(tmp_path, "root/a.png", "beside/b.png")
    (tmp_path / "root" / "up").symlink_to("..")
    assert names(scan_images(tmp_path / "root").files, tmp_path) == ["root/a.png"]


def test_what_can_not_be_read_is_counted_and_named_and_never_opened(tmp_path):
    fill(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "nowhere.png").symlink_to("gone.png")
    (tmp_path / "itself").symlink_to("itself")
    scan = scan_images(tmp_path)
    assert names(scan.files, tmp_path) == ["a.png"]
    assert names(scan.unreadable, tmp_path) == ["itself", "nowhere.png", "pipe.png"]
    assert scan.describe().startswith("3 can't be read: ")
    assert "nowhere.png" in scan.describe()


def test_a_subfolder_without_permission_is_counted_and_named(tmp_path, monkeypatch):
    fill(tmp_path, "a/1.png", "b/2.png")
    real = os.scandir

    def scandir(folder):
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)  # permissions do not bind root
    scan = scan_images(tmp_path)
    assert names(scan.files, tmp_path) == ["a/1.png"]
    assert names(scan.unreadable, tmp_path) == ["b"]


def test_names_of_the_outside_are_made_printable(tmp_path):
    fill(tmp_path, "a.\x1b[31mred", "b.png")
    (tmp_path / "no\nwhere").symlink_to("gone")
    told = scan_images(tmp_path).describe()
    assert told.isprintable()
    assert r"\x1b[31mred" in told


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x20ftypisom", "video"),
        (b"%PDF-1.7", "PDF"),
        (b"<?xml version='1.0'?>\n<svg>", "SVG"),
        (b"\n<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"just words\n", "text"),
        (bytes(64), "zero bytes"),
    ],
)
def test_other_kinds_are_named(head, kind):
    assert image_kind(head) is None
    assert kind in what_it_is(head)


def test_avif_is_told_from_heic():
    assert image_kind(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1") == "AVIF"
    assert image_kind(b"\0\0\0\x20ftypmif1\0\0\0\0mif1avif") == "AVIF"
    assert image_kind(b"\0\0\0\x20ftypmif1\0\0\0\0mif1heic") is None
