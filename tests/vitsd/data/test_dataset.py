"""Datasets: what is accepted, what is held out, and what is refused."""

import contextlib
import os
import re
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from vitsd.data import memory
from vitsd.data.dataset import align_labels
from vitsd.data.sources import load_dataset, load_labeled_images
from vitsd.data.statistics import pixel_statistics
from vitsd_runtime import UsageError, VitsdError


@pytest.fixture
def folder(tmp_path):
    """Class folders with images of many kinds."""
    random = np.random.default_rng(0)
    kinds = [("RGB", "png"), ("L", "jpg"), ("RGBA", "webp"), ("P", "png")]
    for split, count in (("train", 8), ("test", 4)):
        for name in ("cat", "dog", "owl"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(count):
                mode, ending = kinds[i % len(kinds)]
                pixels = random.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).convert(mode)
                image.save(tmp_path / "pets" / split / name / f"{i}.{ending}")
    return tmp_path / "pets"


def npz(path, **changes):
    random = np.random.default_rng(0)
    arrays = {
        "x_train": random.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(30) % 3,
        "x_test": random.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(9) % 3,
        **changes,
    }
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return str(path)


def test_digits_are_real_and_split_once_and_for_all():
    first, second = load_dataset("digits"), load_dataset("digits")
    assert len(first.train) + len(first.test) == 1797
    assert first.train.images.dtype == np.uint8
    assert first.train.images.max() == 255
    np.testing.assert_array_equal(first.test.images, second.test.images)
    counts = np.bincount(first.test.labels)
    assert counts.min() > 30


def test_validation_is_held_out_of_training_only():
    dataset = load_dataset("digits")
    held = dataset.with_validation(0.1)
    assert len(held.val) == pytest.approx(0.1 * len(dataset.train), abs=10)
    assert len(held.val) + len(held.train) == len(dataset.train)
    assert held.test is dataset.test
    assert held.with_validation(0.5) is held
    train, val = ({x.tobytes() for x in split.images} for split in (held.train, held.val))
    assert len(train & val) < 5  # a few digits are identical in the source


@pytest.mark.parametrize("name", ["dev", "name", "with_validation", ""])
def test_a_split_that_is_not_there_is_refused(name):
    with pytest.raises(UsageError, match="use train, val, test"):
        load_dataset("digits").split(name)


def test_a_folder_of_any_image_kinds(folder):
    dataset = load_dataset(folder, input_size=(16, 12))
    assert dataset.class_names == ("cat", "dog", "owl")
    assert dataset.train.images.shape == (24, 16, 12, 3)
    assert dataset.test.images.shape == (12, 16, 12, 3)
    assert dataset.train.labels.tolist() == sorted(dataset.train.labels.tolist())


def test_a_folder_without_splits_gets_a_test_split(folder):
    dataset = load_dataset(folder / "train", input_size=(8, 8))
    assert dataset.class_names == ("cat", "dog", "owl")
    assert len(dataset.train) + len(dataset.test) == 24
    assert set(dataset.test.labels) == {0, 1, 2}


def test_a_validation_folder_is_used(folder):
    (folder / "test").rename(folder / "val")
    dataset = load_dataset(folder, input_size=(8, 8))
    assert len(dataset.val) == 12
    assert dataset.with_validation(0.3) is dataset
    assert len(dataset.test) > 0


def test_unreadable_images_are_skipped_and_named(folder, caplog):
    (folder / "train" / "cat" / "bad.png").write_bytes(b"no")
    assert len(load_dataset(folder, input_size=(8, 8)).train) == 24
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "1 of 25" in record.message
    assert "bad.png" in record.message


def test_a_class_without_a_readable_image_is_named(folder):
    for path in (folder / "train" / "dog").iterdir():
        path.write_bytes(b"no")
    with pytest.raises(VitsdError, match="no readable images of dog"):
        load_dataset(folder, input_size=(8, 8))


def have_memory(monkeypatch, usable):
    """A machine that gives data so many bytes."""
    monkeypatch.setattr(memory, "describe_machine", lambda: {"memory_mb": usable / 750_000})


def test_more_than_memory_holds_is_refused_before_it_is_read(folder, tmp_path, monkeypatch):
    have_memory(monkeypatch, 750)
    with pytest.raises(VitsdError, match=r"more than this machine can hold\. Pack the folder"):
        load_dataset(folder, input_size=(8, 8))
    with pytest.raises(VitsdError, match="more than this machine can hold"):
        load_dataset(npz(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("load", "images"),
    [
        (load_dataset, 24 + 12 + 24),  # validation images are cut from the training images
        (load_labeled_images, 2 * (24 + 12)),  # the splits are joined
    ],
)
def test_memory_must_hold_what_is_there_twice_for_a_while(folder, monkeypatch, load, images):
    needed = images * 8 * 8 * 3
    have_memory(monkeypatch, needed)
    load(folder, input_size=(8, 8))
    have_memory(monkeypatch, needed - 1)
    with pytest.raises(VitsdError, match=f"takes {needed:,} bytes, more than"):
        load(folder, input_size=(8, 8))


def test_memory_must_hold_the_copy_that_a_file_s_validation_images_cost(tmp_path, monkeypatch):
    source = npz(tmp_path / "a.npz")
    with zipfile.ZipFile(source) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
    needed = sum(sizes.values()) + sizes["x_train.npy"]
    have_memory(monkeypatch, needed)
    load_dataset(source)
    have_memory(monkeypatch, needed - 1)
    with pytest.raises(VitsdError, match=f"{needed:,} bytes"):
        load_dataset(source)


def test_a_dataset_says_how_its_images_were_resized(folder):
    assert load_dataset(folder, (8, 8)).resize_mode == "stretch"
    cropped = load_dataset(folder, (8, 8), "crop")
    assert cropped.resize_mode == "crop"
    assert cropped.with_validation(0.2).resize_mode == "crop"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [p.unlink() for p in (f / "train" / "owl").iterdir()], "no images of owl"),
        (lambda f: (f / "test" / "fox").mkdir(), "fox"),
        (
            lambda f: [shutil.rmtree(f / "train" / c) for c in ("cat", "dog", "owl")],
            "no train/ with class folders",
        ),
        (
            lambda f: [shutil.rmtree(f / s / c) for c in ("cat", "dog") for s in ("train", "test")],
            "1 class",
        ),
        (lambda f: shutil.rmtree(f / "test" / "owl"), "no images of owl"),
    ],
)
def test_unusable_folders_are_refused(folder, change, message):
    change(folder)
    with pytest.raises(UsageError, match=message):
        load_dataset(folder, input_size=(8, 8))


def test_an_npz_file_may_hold_a_validation_split(tmp_path, caplog):
    images = np.full((3, 8, 8, 3), 7, np.uint8)
    dataset = load_dataset(npz(tmp_path / "a.NPZ.npz", x_val=images, y_val=np.arange(3)))
    assert dataset.val is not None
    np.testing.assert_array_equal(dataset.val.images, images)
    assert not caplog.records
    with pytest.raises(UsageError, match="lacks y_val"):
        load_dataset(npz(tmp_path / "b.npz", x_val=images))


def test_arrays_left_out_of_an_npz_file_are_named(tmp_path, caplog):
    load_dataset(npz(tmp_path / "a.npz", x_valid=np.zeros(3), y_valid=np.zeros(3)))
    assert "x_valid, y_valid left out" in caplog.text


def test_classes_that_no_image_is_trained_on_are_named(tmp_path, caplog):
    load_dataset(npz(tmp_path / "a.npz", y_train=np.arange(30) % 3 + 1, y_test=np.arange(9) % 3))
    assert "no training images of 0, so" in caplog.text


def test_an_archive_is_to_be_unpacked_first(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"photos\.zip is neither .* unpack"):
        load_dataset(tmp_path / "photos.zip")


def test_npz(tmp_path):
    assert load_dataset(npz(tmp_path / "a.npz")).class_names == ("0", "1", "2")
    columns = npz(
        tmp_path / "b.npz",
        class_names=np.array(["x", "y", "z"]),
        y_train=(np.arange(30) % 3)[:, None],
    )
    assert load_dataset(columns).class_names == ("x", "y", "z")
    flat = npz(
        tmp_path / "c.npz",
        x_train=np.zeros((30, 8, 8), np.uint8),
        x_test=np.zeros((9, 8, 8), np.uint8),
    )
    assert load_dataset(flat).image_shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "lacks x_test"),
        ({"x_train": np.zeros((30, 8, 8, 3), np.float32)}, "must be uint8"),
        ({"x_train": np.full((30, 8, 8, 3), np.nan)}, "must be uint8"),
        ({"x_train": np.zeros((30, 64), np.uint8)}, "must be"),
        ({"x_train": np.zeros((30, 8, 8, 4), np.uint8)}, "must be"),
        ({"x_test": np.zeros((9, 9, 9, 3), np.uint8)}, "test images are"),
        ({"y_train": np.arange(29) % 3}, "29 labels"),
        ({"y_train": np.zeros(30, int), "y_test": np.zeros(9, int)}, "1 class"),
        ({"y_train": np.arange(30) % 3 - 1}, "from 0; the smallest is -1"),
        ({"y_test": np.arange(9) % 5}, "classes that the training split lacks"),
        ({"y_train": np.arange(30) % 3 * 10**10}, "number the classes from 0"),
        ({"class_names": np.array(["x", "y", "x"])}, "must differ"),
        ({"class_names": np.array(["x", "y"])}, "labels reach from 0 to 2"),
        ({"y_train": np.linspace(0, 1, 30)}, "whole numbers"),
        (
            {"x_train": np.zeros((0, 8, 8, 3), np.uint8), "y_train": np.zeros(0, int)},
            "no training images",
        ),
        (
            {"x_test": np.zeros((0, 8, 8, 3), np.uint8), "y_test": np.zeros(0, int)},
            "no test images",
        ),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        load_dataset(npz(tmp_path / "a.npz", **changes))


def test_a_download_that_fails_is_one_line(monkeypatch):
    def load_data():
        raise OSError("no route\nto the host \x1b[2J")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
    with pytest.raises(VitsdError, match=r"^cifar10 could not be downloaded \(no route\)\. Off"):
        load_dataset("cifar10")


def test_a_download_shows_its_progress_beside_the_results(monkeypatch, capsys):
    def load_data():
        print("Downloading data from ...")
        images, labels = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20)[:, None] % 10
        return (images, labels), (images, labels)

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
    assert load_dataset("cifar10").num_classes == 10
    shown = capsys.readouterr()
    assert (shown.out, "Downloading" in shown.err) == ("", True)


def test_pickles_are_not_opened(tmp_path):
    path = npz(tmp_path / "a.npz", class_names=np.array(["x", "y", {"z": 1}], dtype=object))
    with pytest.raises(VitsdError, match="pickle"):
        load_dataset(path)


def test_a_damaged_archive_is_named(tmp_path):
    path = npz(tmp_path / "a.npz")
    os.truncate(path, os.path.getsize(path) // 2)
    with pytest.raises(VitsdError, match=r"a\.npz"):
        load_dataset(path)


def test_unusual_compression_is_refused(tmp_path):
    npz(tmp_path / "a.npz")
    with (
        zipfile.ZipFile(tmp_path / "a.npz") as source,
        zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_BZIP2) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(VitsdError, match="does not use"):
        load_dataset(tmp_path / "b.npz")


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bits_never_end_in_a_traceback(tmp_path, seed):
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8), np.arange(30) % 3
    np.savez_compressed(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for position in random.integers(0, len(content), 3):
        content[position] ^= 1 << random.integers(8)
    (tmp_path / "a.npz").write_bytes(content)
    with contextlib.suppress(VitsdError):
        load_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize("source", ["mnist", "none/such", "a.npz", ""])
def test_unknown_sources_are_refused(source):
    with pytest.raises(UsageError, match="There is no dataset"):
        load_dataset(source)


def test_statistics_equal_those_of_keras_normalization():
    images = np.random.default_rng(0).integers(0, 200, (50, 9, 7, 3), dtype=np.uint8)
    mean, variance = pixel_statistics(images)
    layer = keras.layers.Normalization()
    layer.adapt(images.astype("float32"))
    np.testing.assert_allclose(mean, np.ravel(layer.mean), rtol=1e-4)
    np.testing.assert_allclose(variance, np.ravel(layer.variance), rtol=1e-4)


@pytest.mark.parametrize("bad", ["a\nb", "\x1b[2Jcat", "cat\0"])
def test_class_names_that_cannot_be_printed_are_refused(tmp_path, bad):
    path = npz(tmp_path / "a.npz", class_names=np.array(["x", bad + "!", "z"]))
    with pytest.raises(UsageError, match="can't be printed") as caught:
        load_dataset(path)
    assert str(caught.value).isprintable()


def test_labels_follow_the_models_class_names(folder):
    dataset = load_dataset(folder, input_size=(8, 8))
    assert align_labels(dataset, ("ape", "owl", "dog", "cat")).tolist() == [3, 2, 1]
    with pytest.raises(UsageError, match="owl"):
        align_labels(dataset, ("cat", "dog"))


def member(dtype, shape, content=b"", version=1):
    """A file of NumPy's, with a header that need not fit its content."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text", "magic string"),
        (member("|u1", (10**13,)), "claims to be uint8"),
        (member("|V1000000000", (1,)), "holds 0 bytes"),
        (member("<U250000000", (1,)), "holds 0 bytes"),
        (member("|u1", (-1, 4, 4, 3), bytes(48)), "holds 48 bytes"),
        (member("|u1", (3,), bytes(4)), "holds 4 bytes"),
        (member("|u1", (3,), bytes(3), version=3), "version"),
        (member("|u1", "(" * 500), "can't be read"),
        (member("|u1", "[" * 90 + "]" * 90), "can't be read"),
    ],
)
def test_arrays_that_are_not_what_their_header_says_are_refused(tmp_path, content, message):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", content)
    with pytest.raises(VitsdError, match="can't be read") as error:
        load_dataset(str(tmp_path / "d.npz"))
    assert re.search(message, str(error.value))
    assert str(error.value).isprintable()


def test_class_names_have_a_limit(tmp_path):
    path = npz(tmp_path / "many.npz", class_names=np.zeros((2, 50_001), np.uint8))
    with pytest.raises(UsageError, match="at most 100,000 names"):
        load_dataset(path)
    path = npz(tmp_path / "long.npz", class_names=np.array(["cat", "x" * 2**24]))
    with pytest.raises(UsageError, match="134,217,728"):
        load_dataset(path)


def test_an_encrypted_archive_is_refused(tmp_path):
    content = bytearray(Path(npz(tmp_path / "a.npz")).read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(signature, at + 1)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(VitsdError, match="encrypted"):
        load_dataset(tmp_path / "a.npz")
