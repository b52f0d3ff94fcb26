"""Folders whose JPEGs are decoded at a smaller scale, as a device will do it."""

import numpy as np
import pytest
from PIL import Image

from vitsd.data.packed import pack
from vitsd.data.sources import load_dataset, load_labeled_images
from vitsd.evaluation.evaluate import load_matching
from vitsd_runtime import UsageError
from vitsd_runtime.images.loading import load_image

SIZE = (8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = random.integers(0, 256, (100, 120, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.jpg")
    return folder


def test_training_reads_as_a_device_reads(folder):
    dataset = load_dataset(folder, SIZE, reducing_gap=2)
    assert dataset.reducing_gap == 2.0
    on_device = load_image(folder / "test" / "cat" / "0.jpg", (*SIZE, 3), reducing_gap=2)
    np.testing.assert_array_equal(dataset.test.images[0], on_device)
    in_full = load_dataset(folder, SIZE)
    assert in_full.reducing_gap is None
    assert not np.array_equal(in_full.test.images, dataset.test.images)
    whole = load_labeled_images(folder, SIZE, reducing_gap=2)
    assert (whole.images.images == on_device).all(axis=(1, 2, 3)).any()


def test_a_packed_folder_is_the_folder(folder, tmp_path):
    pack(folder, tmp_path / "packed", SIZE, reducing_gap=2)
    packed = load_dataset(tmp_path / "packed")
    expected = load_dataset(folder, SIZE, reducing_gap=2)
    assert packed.reducing_gap == 2.0
    np.testing.assert_array_equal(packed.train.images[:], expected.train.images)
    with pytest.raises(UsageError, match=r"packed with the `reducing_gap` 2.0, not 4.0"):
        load_dataset(tmp_path / "packed", reducing_gap=4)


def test_a_models_gap_is_used_for_its_evaluation(folder, spec):
    model = spec.replace(class_names=("cat", "dog"), input_size=(*SIZE, 3), reducing_gap=2)
    expected = load_dataset(folder, SIZE, reducing_gap=2)
    np.testing.assert_array_equal(load_matching(folder, model).test.images, expected.test.images)


def test_a_model_with_a_gap_is_evaluated_on_packed_images_as_they_are(folder, spec, tmp_path):
    model = spec.replace(class_names=("cat", "dog"), input_size=(*SIZE, 3), reducing_gap=2)
    pack(folder, tmp_path / "packed", SIZE)
    expected = load_dataset(tmp_path / "packed").test.images[:]
    np.testing.assert_array_equal(
        load_matching(tmp_path / "packed", model).test.images[:], expected
    )


@pytest.mark.parametrize("gap", [0, -1, float("nan"), 1000])
def test_a_gap_that_is_none_is_refused(folder, gap):
    with pytest.raises(UsageError, match="reducing_gap"):
        load_dataset(folder, SIZE, reducing_gap=gap)
