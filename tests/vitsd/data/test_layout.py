"""Folders as people have them: what is a split, what a class, and what is said of the rest."""

import itertools
import os

import numpy as np
import pytest
from PIL import Image

from vitsd.data.sources import load_dataset, load_labeled_images
from vitsd.data.split_names import split_in, split_of
from vitsd_runtime import UsageError


@pytest.fixture
def make(tmp_path):
    """A function that makes images, all different, below a folder: ``make("train/cat", ...)``."""
    numbers = itertools.count()

    def images(*folders: str, count: int = 4):
        for folder in folders:
            (tmp_path / "pets" / folder).mkdir(parents=True, exist_ok=True)
            for _ in range(count):
                pixels = np.random.default_rng(next(numbers)).integers(0, 256, (4, 4, 3), np.uint8)
                name = f"{next(numbers)}.png"
                Image.fromarray(pixels).save(tmp_path / "pets" / folder / name)
        return tmp_path / "pets"

    return images


def load(root):
    return load_dataset(root, (4, 4))


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("train Training TRAIN trn train_set training-set trainval train2 images_train", "train"),
        ("val Valid validation dev development val_images ValSet valid-data", "val"),
        ("test Testing TST test_set test2 eval evaluation holdout hold-out held_out", "test"),
        ("cat trains tests trainer contest value vali station training_cat bullet_train", None),
    ],
)
def test_splits_are_known_by_their_usual_names(names, split):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_a_splits_name_among_other_words_is_only_a_hint():
    assert split_in("seg_train") == "train"
    assert split_in("asl-alphabet-test") == "test"
    assert split_in("train_test") is None
    assert split_in("constrain") is None


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "dev", "Testing"),
        ("train", "valid", "test"),
        ("TRAIN", "VAL", "TEST"),
        ("training_set", "validation_set", "test_set"),
        ("seg_train", "seg_val", "seg_test"),
    ],
)
def test_known_names_are_splits(make, caplog, train, val, test):
    root = make(f"{train}/cat", f"{train}/dog", count=6)
    make(f"{val}/cat", f"{val}/dog", count=3)
    make(f"{test}/cat", f"{test}/dog", count=2)
    dataset = load(root)
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (12, 6, 4)
    assert not caplog.records


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("Train/train/Train", "Test"),
        ("train/images", "test/images"),
    ],
)
def test_splits_may_be_packed_twice(make, caplog, train, test):
    dataset = load(make(*(f"{split}/{name}" for split in (train, test) for name in ("cat", "dog"))))
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train), len(dataset.test)) == (8, 8)
    assert not caplog.records


@pytest.mark.parametrize("test", ["test/images", "test", "asl_test/asl_test", "asl_test"])
def test_test_images_without_classes_are_left_out_and_named(make, caplog, test):
    train = "asl_train" if "asl" in test else "train"
    dataset = load(make(f"{train}/cat", f"{train}/dog", test))
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train) + len(dataset.test) == 8
    assert f"only {train}/ used, {test.split('/')[0]}/ left out" in caplog.text


@pytest.mark.parametrize("twin", ["cat", "Cat ", "CAT"])
def test_classes_that_look_alike_are_pointed_out(make, caplog, twin):
    assert twin in load(make("Cat", "dog", twin)).class_names
    first, second = sorted(["Cat", twin])
    assert f"{first!r}, {second!r} are different classes" in caplog.text


def test_copies_in_several_classes_are_counted(make, caplog):
    root = make("cat", "dog", "owl")
    copied = next((root / "cat").iterdir())
    for place in ("cat/copy.png", "dog/copy.png"):
        (root / place).write_bytes(copied.read_bytes())
    load(root)
    assert "pets: 3 images are copies of ones in other classes" in caplog.text


def test_folders_of_the_same_classes_may_be_splits_of_another_name(make, caplog):
    load(make("ensayo/cat", "ensayo/dog", "prueba/cat", "prueba/dog"))
    assert "If those are the classes, call the folders around them train/ and test/" in caplog.text


def test_a_folder_beside_the_splits_is_left_out_and_named(make, caplog):
    make("train/cat", "train/dog", "test/cat", "test/dog", "extra", "unlabeled/a")
    dataset = load(make("val"))  # images that nobody has labeled
    assert (len(dataset.train), dataset.val, len(dataset.test)) == (8, None, 8)
    (record,) = caplog.records
    assert record.message.endswith("only test/, train/ used, extra/, unlabeled/, val/ left out.")


def test_loose_images_beside_class_folders_are_counted(make, caplog):
    make(".", count=2)
    load(make("cat", "dog"))
    assert [r.message.split(": ")[1] for r in caplog.records] == [
        "2 images left out that lie beside the class folders, not in one."
    ]
    caplog.clear()
    make("train/cat", "train/dog", "test/cat", "test/dog", count=6)
    load(make("train", count=1))
    assert "train: 1 images left out" in caplog.text


@pytest.mark.parametrize("name", ["train", "test", "Validation", "eval"])
def test_a_class_may_be_called_like_a_split(make, caplog, name):
    dataset = load(make("cat", name, "dog"))
    assert set(dataset.class_names) == {"cat", name, "dog"}
    assert f"{name}/ taken for a class" in caplog.text


def test_splits_may_hold_a_class_called_like_a_split(make, caplog):
    dataset = load(make("train/cat", "train/train", "test/cat", "test/train"))
    assert dataset.class_names == ("cat", "train")
    assert (len(dataset.train), len(dataset.test)) == (8, 8)
    assert not caplog.records


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("Testing/cat", "Testing/dog", "valid/cat", "valid/dog"), "has Testing/, valid/ but no"),
        (("cat", "dog", "test/cat", "test/dog"), "has test/ but no train/"),
        (("train", "test"), "has test/, train/, which are splits by their names"),
        (("train", "val", "test"), "expected train/CLASS"),
        (("train/cat", "train/dog", "Training/cat"), "Training and .*train are both the train"),
        (("train/cat", "train/dog", "val/cat", "valid/cat"), "both the val split"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "not splits into classes"),
        (("images/cat", "images/dog"), "pets/images holds cat, dog: .*give that folder"),
        (("a/b/c/cat", "a/b/c/dog"), "pets/a/b/c holds cat, dog"),
        (("data/train/cat", "data/train/dog", "data/test/cat"), "pets/data holds test, train"),
        (("train/animals/cat", "train/animals/dog"), "train/animals holds cat, dog"),
        (("cat",), "1 class"),
        (("cat", "dog/.thumbnails", "owl"), "no images of dog"),
        (("train/cat", "train/dog", "val/cat"), "val has no images of dog"),
        (("train/cat", "train/dog", "val/cat", "val/dog", "val/owl"), "lacks: owl"),
    ],
)
def test_what_looks_like_something_else_is_refused(make, folders, message):
    with pytest.raises(UsageError, match=message):
        load(make(*folders))


def test_a_class_of_folders_is_pointed_out(make, caplog):
    dataset = load(make("cat/indoors", "cat/outdoors", "dog"))
    assert dataset.class_names == ("cat", "dog")
    assert "cat holds folders (indoors, outdoors) instead of images" in caplog.text


def test_folders_without_access_or_purpose_are_no_classes(make):
    root = make("cat", "dog", "@eaDir/cat", "__MACOSX/cat", ".cache", "cat/.ipynb_checkpoints")
    dataset = load(root)
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train) + len(dataset.test) == 8


def test_links_to_class_folders_are_followed(make, tmp_path):
    root = make("cat", "dog")
    (root / "cat").rename(tmp_path / "elsewhere")
    (root / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert load(root).class_names == ("cat", "dog")


def test_files_left_out_are_counted_in_one_warning_and_poor_classes_named(make, caplog):
    root = make("cat", "dog", "owl")
    for i in range(9):
        (root / "cat" / f"{i}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "owl" / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    load(root)
    (record,) = caplog.records
    assert "9 .heic, 1 .mp4 left out (accepted: .png" in record.message
    assert record.message.endswith("Most files of cat.")


def test_a_class_without_images_says_what_it_has(make):
    root = make("cat", "dog")
    (root / "owl").mkdir()
    (root / "owl" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UsageError, match=r"no images of owl: 1 \.heic left out"):
        load(root)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "\u202egnp", "\udcff"])
def test_class_names_that_cannot_be_printed_are_refused_with_their_folder(make, name, monkeypatch):
    root = make("cat", "dog")
    (root / "cat").rename(root / name)
    monkeypatch.setattr("vitsd.data.folders.load_image", None)  # before any is read
    with pytest.raises(UsageError, match="can't be a class") as caught:
        load(root)
    assert str(caught.value).isprintable()
    assert "pets" in str(caught.value)


def test_accents_encoded_in_two_ways_are_one_class(make):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    dataset = load(make(f"train/{composed}", "train/tea", f"test/{decomposed}", "test/tea"))
    assert dataset.class_names == (composed, "tea")
    make(f"train/{decomposed}")
    with pytest.raises(UsageError, match="is there twice"):
        load(make())


def test_more_class_names_than_a_model_file_holds_are_refused(make, monkeypatch):
    monkeypatch.setattr("vitsd.data.layout.MAX_JSON_BYTES", 50)
    with pytest.raises(UsageError, match="pets has 9 class folders"):
        load(make(*(f"number {i}" for i in range(9)), count=1))


def test_thousands_of_classes_are_compared_in_no_time(tmp_path):
    from vitsd.data.layout import ClassFolders, ImageFolder, require_images
    from vitsd_runtime.images.files import ImageScan

    class Name(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other):
            Name.compared += 1
            return str.__eq__(self, other)

    names = [Name(i) for i in range(2000)]
    scan = ImageScan(files=[tmp_path / "a.png"])
    folders = {name: ImageFolder(tmp_path / name, scan) for name in names}
    require_images(ClassFolders(tmp_path, folders), names)
    assert Name.compared < 20_000


def test_all_images_of_a_folder_of_any_kind(make):
    root = make("train/cat", "train/dog", "test/cat", "test/owl")
    whole = load_labeled_images(root, (4, 4))
    assert whole.class_names == ("cat", "dog", "owl")
    assert np.bincount(whole.images.labels).tolist() == [8, 4, 4]
    one = load_labeled_images(root / "train", (4, 4))
    assert one.class_names == ("cat", "dog")
    assert len(one.images) == 8


def test_all_images_may_be_of_one_class_or_in_a_test_folder_only(make, tmp_path):
    make("test/dog", "valid/dog")
    assert len(load_labeled_images(make(), (4, 4)).images) == 8
    with pytest.raises(UsageError, match="No images in class folders"):
        load_labeled_images(tmp_path / "pets" / "test" / "dog", (4, 4))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_class_folder_is_named(make):
    root = make("cat", "dog", "owl")
    (root / "owl").chmod(0)
    try:
        with pytest.raises(UsageError, match=r"no images of owl: 1 can't be read: .*owl"):
            load(root)
    finally:
        (root / "owl").chmod(0o700)
