"""Images whose values fill another range than that of their type."""

import numpy as np
import pytest
from PIL import Image

from vitsd.data.sources import load_dataset, load_labeled_images
from vitsd.evaluation.evaluate import load_labeled, load_matching
from vitsd_runtime import UsageError
from vitsd_runtime.images.loading import load_image

RANDOM = np.random.default_rng(0)
SIZE = (8, 8)


@pytest.fixture
def twelve_bits(tmp_path):
    """Class folders of 16-bit files with 12-bit values."""
    for name in ("cat", "dog"):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for i in range(10):
            values = RANDOM.integers(0, 4096, SIZE).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "cells" / name / f"{i}.png")
    return tmp_path / "cells"


def save(path, images, **changes):
    labels = np.arange(len(images)) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(path, **{**arrays, **changes})
    return path


def test_twelve_bits_in_sixteen_keep_their_levels(twelve_bits):
    by_type = load_dataset(twelve_bits, SIZE)
    assert by_type.value_range is None
    assert by_type.train.images.max() <= 15
    scaled = load_dataset(twelve_bits, SIZE, value_range=(0, 4095))
    assert scaled.value_range == (0.0, 4095.0)
    assert scaled.with_validation(0.2).value_range == (0.0, 4095.0)
    assert len(np.unique(scaled.train.images)) > 200
    whole = load_labeled_images(twelve_bits, SIZE, value_range=(0, 4095))
    assert whole.images.images.max() > 250


@pytest.mark.parametrize(
    ("dtype", "top"), [("uint16", 4095), ("int32", 4095), ("float32", 1.0), ("uint8", 15)]
)
def test_arrays_are_scaled_as_a_device_scales_them(tmp_path, dtype, top):
    images = (RANDOM.random((12, *SIZE, 3)) * top).astype(dtype)
    dataset = load_dataset(save(tmp_path / "a.npz", images), value_range=(0, top))
    expected = np.rint(images.astype(float) * 255 / top)
    np.testing.assert_array_equal(dataset.test.images, expected)
    on_device = load_image(images[3], (*SIZE, 3), value_range=(0, top))
    np.testing.assert_array_equal(dataset.test.images[3], on_device)


def test_arrays_of_16_bits_are_taken_as_files_of_16_bits_are(tmp_path):
    images = RANDOM.integers(0, 65536, (12, *SIZE)).astype(np.uint16)
    dataset = load_dataset(save(tmp_path / "a.npz", images))
    np.testing.assert_array_equal(dataset.test.images[..., 0], images >> 8)


def test_arrays_of_other_types_are_refused_with_what_to_do(tmp_path):
    path = save(tmp_path / "a.npz", RANDOM.random((12, *SIZE)))
    with pytest.raises(UsageError, match="`value_range=0,1`") as raised:
        load_dataset(path)
    assert "float64" in str(raised.value)
    assert "astype" not in str(raised.value)
    with pytest.raises(UsageError, match="complex64"):
        images = np.ones((12, *SIZE), np.complex64)
        load_dataset(save(tmp_path / "b.npz", images), value_range=(0, 1))


@pytest.mark.parametrize("values", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1)])
def test_a_range_that_is_none_is_refused(twelve_bits, values):
    with pytest.raises(UsageError, match="two rising numbers"):
        load_dataset(twelve_bits, SIZE, value_range=values)


def test_built_in_images_have_no_other_range():
    with pytest.raises(UsageError, match="leave out `value_range`"):
        load_dataset("digits", value_range=(0, 16))


def test_a_models_range_is_used_for_its_evaluation(spec, twelve_bits):
    model = spec.replace(class_names=("cat", "dog"), input_size=(*SIZE, 3), value_range=(0, 4095))
    expected = load_dataset(twelve_bits, SIZE, value_range=(0, 4095), split_rule="position")
    dataset = load_matching(twelve_bits, model)
    np.testing.assert_array_equal(dataset.test.images, expected.test.images)
    _, images = load_labeled(twelve_bits, model, "all")
    assert images.images.max() > 250
    # Of another size: scaled once, not twice.
    smaller = model.replace(input_size=(4, 4, 3))
    path = save(twelve_bits / "a.npz", RANDOM.integers(0, 4096, (6, 8, 8, 3)).astype(np.uint16))
    arrays = np.load(path)["x_test"]
    _, resized = load_labeled(path, smaller.replace(class_names=("0", "1")), "test")
    for got, values in zip(resized.images, arrays, strict=True):
        np.testing.assert_array_equal(got, load_image(values, (4, 4, 3), "stretch", (0, 4095)))
