"""Which images a model is evaluated on, and whether it was trained on them."""

import logging

import numpy as np
import pytest
from PIL import Image

from vitsd.data.dataset import Split
from vitsd.data.fingerprint import Fingerprint
from vitsd.data.sources import load_dataset
from vitsd.evaluation.evaluate import labeled_images, load_labeled, load_matching, trained_on
from vitsd_runtime import UsageError


@pytest.fixture
def folder(tmp_path):
    """40 photos of each of the model's three classes, without splits."""
    for seed, name in enumerate(("cat", "dog", "owl")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        photos = np.random.default_rng(seed).integers(0, 256, (40, 8, 8, 3), np.uint8)
        for i, photo in enumerate(photos):
            Image.fromarray(photo).save(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


def trained(spec, images: Split):
    """The spec of a model that was trained on these images."""
    text = Fingerprint.of(images.identities).to_text()
    return spec.replace(provenance={"split_rule": "content", "trained_on": text})


def test_new_photos_move_none_from_training_to_testing(folder, spec, caplog):
    before = load_dataset(folder, spec.input_size[:2])
    spec = trained(spec, before.train)
    for seed, name in enumerate(("cat", "dog", "owl"), start=3):
        photo = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(photo).save(folder / name / "0-new.png")
    dataset = load_matching(folder, spec)
    test = labeled_images(dataset, spec, "test")
    assert trained_on(test, spec, "test").images == 0
    assert set(before.test.identities) <= set(test.identities)
    assert not caplog.records


def test_images_that_were_trained_on_are_counted(folder, spec, caplog):
    dataset = load_dataset(folder, spec.input_size[:2])
    spec = trained(spec, dataset.train)
    name, images = load_labeled(folder, spec, "all")
    assert (name, len(images)) == ("pets", 120)
    overlap = trained_on(images, spec, "all")
    assert (overlap.images, overlap.exact) == (len(dataset.train), True)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    text = f"{len(dataset.train)} of 120 images were trained on: the accuracy on them is too good."
    assert record.message == text


def test_training_images_are_expected_to_be_trained_on(folder, spec, caplog):
    spec = trained(spec, load_dataset(folder, spec.input_size[:2]).train)
    _, images = load_labeled(folder, spec, "train")
    assert trained_on(images, spec, "train").images == len(images)
    assert not caplog.records


def test_a_few_repeated_images_are_no_reason_for_a_warning(spec, caplog):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8)
    images = Split(pixels, np.zeros(300, np.int64))
    caplog.set_level(logging.INFO)
    assert trained_on(images, trained(spec, images.take(np.arange(2))), "test").images == 2
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_models_that_do_not_say_what_they_were_trained_on_are_evaluated_without_a_word(
    folder, spec, caplog
):
    _, images = load_labeled(folder, spec, "all")
    assert trained_on(images, spec, "all") is None
    assert not caplog.records


def test_models_without_a_rule_were_split_by_position(folder, spec):
    old = labeled_images(load_matching(folder, spec), spec, "test")
    assert np.bincount(old.labels).tolist() == [8, 8, 8]  # the fraction of every class, exactly
    dataset = load_dataset(folder, spec.input_size[:2], split_rule="position")
    np.testing.assert_array_equal(old.images, dataset.test.images)
    new = labeled_images(load_matching(folder, trained(spec, dataset.train)), spec, "test")
    assert set(new.identities) != set(old.identities)


def test_arrays_of_another_size_remember_what_they_were(tmp_path, spec):
    random = np.random.default_rng(0)
    pixels = {name: random.integers(0, 256, (30, 9, 9, 3), np.uint8) for name in ("train", "test")}
    labels, names = np.arange(30) % 3, np.array(["cat", "dog", "owl"])
    path = tmp_path / "a.npz"
    np.savez(
        path,
        x_train=pixels["train"],
        x_test=pixels["test"],
        y_train=labels,
        y_test=labels,
        class_names=names,
    )
    spec = trained(spec, load_dataset(path).train)
    _, images = load_labeled(path, spec, "all")
    assert images.images.shape[1:] == spec.input_size
    assert trained_on(images, spec, "all").images == 30


@pytest.mark.parametrize("names", [("dog",), ("owl", "cat")])
def test_all_images_of_some_of_the_models_classes(folder, spec, names):
    for name in {"cat", "dog", "owl"} - {*names}:
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()
    _, images = load_labeled(folder, spec, "all")
    expected = {spec.class_names.index(name) for name in names}
    assert set(images.labels.tolist()) == expected
    assert len(images) == 40 * len(names)
    assert len(load_labeled(folder, spec, "all", limit=7)[1]) == 7


def test_classes_that_the_model_does_not_know_are_named(folder, spec):
    (folder / "owl").rename(folder / "fox")
    with pytest.raises(UsageError, match="not trained on: fox"):
        load_labeled(folder, spec, "all")
