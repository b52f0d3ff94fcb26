"""Packed datasets: the same as the folder, from the disk, and whatever may be in their place."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vitsd.data import memory
from vitsd.data.dataset import SPLITS
from vitsd.data.packed import INDEX, is_packed, load_packed, pack
from vitsd.data.sources import load_dataset, load_labeled_images
from vitsd.data.statistics import pixel_counts
from vitsd.data.stored import StoredImages
from vitsd_runtime import UsageError, VitsdError

SIZE = (12, 10)


def write_images(folder, count, seed=0):
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = random.integers(0, 256, (14 + i % 5, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders without splits; one file of 21 is damaged."""
    root = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(("cat", "dög")):
        write_images(root / name, 10, seed)
    (root / "cat" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """The folder, packed. Only read it."""
    output = tmp_path_factory.mktemp("packed") / "photos"
    pack(photos, output, SIZE, "crop", (0, 200))
    return output


@pytest.fixture
def packed(made, tmp_path):
    """A copy, to spoil it."""
    return shutil.copytree(made, tmp_path / "copy")


def assert_same(folder, packed):
    assert (packed.name, packed.class_names) == (folder.name, folder.class_names)
    assert (packed.resize_mode, packed.value_range) == (folder.resize_mode, folder.value_range)
    for name in SPLITS:
        expected, found = getattr(folder, name), getattr(packed, name)
        assert (expected is None) == (found is None)
        if expected is not None:
            np.testing.assert_array_equal(found.images[:], expected.images)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_array_equal(found.identities, expected.identities)


def test_a_packed_folder_is_the_same_dataset(photos, made):
    folder = load_dataset(photos, SIZE, "crop", value_range=(0, 200))
    packed = load_dataset(made)
    assert isinstance(packed.train.images, StoredImages)
    assert_same(folder, packed)
    assert_same(folder.with_validation(0.3), packed.with_validation(0.3))
    np.testing.assert_array_equal(
        pixel_counts(packed.train.images), pixel_counts(folder.train.images)
    )


def test_splits_of_the_folder_stay(tmp_path):
    for seed, split in enumerate(("train", "val", "test")):
        for name in ("a", "b"):
            write_images(tmp_path / "data" / split / name, 4 - seed, seed)
    counts = pack(tmp_path / "data", tmp_path / "packed", SIZE)
    assert counts == {"train": 8, "val": 6, "test": 4}
    assert_same(load_dataset(tmp_path / "data", SIZE), load_dataset(tmp_path / "packed"))


def test_all_images_of_a_packed_folder_can_be_evaluated_on(photos, made):
    images = load_labeled_images(made).images
    assert len(images) == 20
    assert images.images.shape == (20, *SIZE, 3)


def test_all_images_of_a_packed_folder_must_fit_into_memory(made, monkeypatch):
    monkeypatch.setattr(memory, "describe_machine", lambda: {"memory_mb": 0.001})
    load_dataset(made)  # these stay on the disk
    with pytest.raises(VitsdError, match=r"as a whole takes .* Take one split at a time"):
        load_labeled_images(made)


def test_other_programs_can_read_it(made):
    images = np.load(made / "train.images.npy", mmap_mode="r")
    assert images.shape == (20, *SIZE, 3)


@pytest.mark.parametrize(
    "key", [3, -1, slice(2, 9), slice(None, None, -2), [4, 5, 6, 1], np.arange(0), [[1, 2], [5, 4]]]
)
def test_images_in_a_file_are_chosen_as_those_in_memory(made, key):
    images = load_packed(made).train.images
    np.testing.assert_array_equal(images[key], images[:][key])
    order = np.array([5, 2, 7, 3])
    np.testing.assert_array_equal(images.choose(order)[:], images[:][order])


def test_nothing_is_overwritten_and_nothing_left_half_written(photos, made, tmp_path, command_here):
    (tmp_path / "there").mkdir()
    (tmp_path / "empty").mkdir()
    size = ("--input-size", 12)
    for folder, output, message in (
        (photos, "there", "is there already: choose another --output"),
        (photos, photos / "packed", "--output must not lie in the folder"),
        (tmp_path / "empty", "new", "has no class folders"),
        (tmp_path / "missing", "new", "There is no folder"),
        (photos / "cat" / "0.png", "new", "There is no folder"),
        (made, "new", "is a packed dataset already"),
    ):
        done = command_here("vitsd-data", "pack", folder, "--output", output, *size, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "there"]


def test_the_command_says_what_it_packed(photos, tmp_path, command_here):
    words = ("pack", photos, "--output", tmp_path / "new", "--input-size", 9, "--json")
    done = command_here("vitsd-data", *words)
    assert json.loads(done.stdout)["images"] == {"train": 20}
    assert "1 of 21 images" in done.stderr
    assert is_packed(tmp_path / "new")


def test_options_for_folders_are_refused(made, command_here):
    for option in (("--input-size", 9), ("--resize-mode", "crop")):
        done = command_here("vitsd-train", "--data", made, *option)
        assert done.returncode == 2
        assert f"{option[0]} is for folders" in done.stderr
    with pytest.raises(UsageError, match=r"packed with the `value_range` \(0.*not \(0.0, 100.0\)"):
        load_dataset(made, value_range=(0, 100))
    assert load_dataset(made, value_range=(0, 200)).value_range == (0, 200)


def header(shape, dtype="|u1", fortran=False, version=b"\x01\x00"):
    text = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x01\x00\xff\xff{",
        header((10**15, 12, 10, 3)),
        header((2**62, 2**62, 4, 3)),
        header((-1, 12, 10, 3)) + bytes(360),
        header((1, 12, 10, 3)) + bytes(361),
        header((1, 12, 10, 3), "|O") + bytes(360),
        header((1, 12, 10, 3), "<f4") + bytes(1440),
        header((1, 12, 10, 3), fortran=True) + bytes(360),
        header((1, 12, 10, 3), version=b"\x03\x00") + bytes(360),
        header((0, 12, 10, 3)),
        header((1, 0, 10, 3)),
        header((1, 360)) + bytes(360),
        header((1, 2000, 1, 3)) + bytes(6000),
        header((1, 10, 12, 4)) + bytes(480),
        header((("a",),) * 4),
        b"\x93NUMPY\x01\x00\x20\x00" + b"(" * 32,
    ],
)
def test_files_that_are_no_images_are_refused_before_memory_is_taken(packed, content):
    (packed / "train.images.npy").write_bytes(content)
    with pytest.raises(VitsdError, match=r"train\.images\.npy"):
        load_dataset(packed)


@pytest.mark.parametrize("name", ["train.labels.npy", "train.identities.npy"])
def test_labels_and_identities_must_fit_the_images(packed, name):
    dtype = np.load(packed / name).dtype
    for values in (np.arange(19, dtype=dtype), np.arange(20, dtype=np.float64)):
        np.save(packed / name, values)
        with pytest.raises(VitsdError, match=name):
            load_dataset(packed)
    np.save(packed / name, np.array([{}] * 20), allow_pickle=True)
    with pytest.raises(VitsdError, match=name):
        load_dataset(packed)
    (packed / name).unlink()
    with pytest.raises(VitsdError, match="is missing"):
        load_dataset(packed)


def test_labels_that_number_no_class_are_refused(packed):
    np.save(packed / "train.labels.npy", np.full(20, 7))
    with pytest.raises(UsageError, match="labels reach"):
        load_dataset(packed)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"version": 2},
        {"more": 1},
        {"name": 5},
        {"class_names": "ab"},
        {"class_names": [1, 2]},
        {"resize_mode": "melt"},
        {"resize_mode": ["crop"]},
        {"value_range": [5, 1]},
        {"value_range": "ab"},
        {"splits": ["test"]},
        {"splits": ["train", "../../etc/passwd"]},
        {"splits": 1},
    ],
)
def test_an_index_of_something_else_is_refused(packed, changes):
    index = json.loads((packed / INDEX).read_text())
    (packed / INDEX).write_text(json.dumps({**index, **changes}))
    with pytest.raises(VitsdError, match=INDEX):
        load_dataset(packed)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"format": "vitsd-data"}'])
def test_an_index_that_is_none_is_refused(packed, content):
    (packed / INDEX).write_text(content)
    with pytest.raises(VitsdError, match=INDEX):
        load_dataset(packed)


def test_a_file_that_changes_while_it_is_used_is_an_error(packed):
    images = load_dataset(packed).train.images
    with open(packed / "train.images.npy", "r+b") as file:
        file.truncate(500)
    with pytest.raises(VitsdError, match="was changed while it was in use"):
        images[:]
