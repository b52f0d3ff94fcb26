"""NumPy preprocessing equals the Keras layers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitsd_runtime.images.loading import load_image
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.spec import ModelSpec


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


sides = st.integers(1, 97)


def make_spec(height, width, channels, size, mean=117.0, variance=3500.0):
    return ModelSpec(
        name="x",
        class_names=("a", "b"),
        input_size=(height, width, channels),
        image_size=size,
        mean=[mean + i for i in range(channels)],
        variance=[variance * (i + 1) for i in range(channels)],
    )


@given(sides, sides, st.sampled_from([1, 3]), sides, st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_equals_keras_for_all_sizes(keras, height, width, channels, size, seed):
    spec = make_spec(height, width, channels, size)
    images = np.random.default_rng(seed).integers(
        0, 256, (2, height, width, channels), dtype=np.uint8
    )
    normalised = keras.layers.Normalization(mean=list(spec.mean), variance=list(spec.variance))(
        images.astype("float32")
    )
    expected = np.asarray(keras.layers.Resizing(size, size)(normalised))
    result = preprocess(images, spec)
    assert result.dtype == np.float32
    assert result.shape == (2, size, size, channels)
    np.testing.assert_allclose(result, expected, atol=1e-4, rtol=0)


@given(sides, sides, sides, st.integers(0, 255))
def test_flat_images_stay_flat(height, width, size, level):
    # Behind it the model divides by deviations, which makes the smallest one visible.
    spec = make_spec(height, width, 1, size)
    result = preprocess(np.full((1, height, width, 1), level, np.uint8), spec)
    assert (result == result.flat[0]).all()


def test_a_constant_channel_does_not_divide_by_zero():
    result = preprocess(
        np.full((1, 4, 4, 1), 7, np.uint8), make_spec(4, 4, 1, 8, mean=7.0, variance=0.0)
    )
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, 0, atol=1e-4)


def test_crop_takes_the_centre(spec):
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 140:160] = 255  # a stripe in the middle of a panorama
    cropped, stretched = (
        load_image(image, spec.input_size, "crop"),
        load_image(image, spec.input_size, "stretch"),
    )
    assert (cropped.max(axis=2) > 127).mean() > 2.5 * (stretched.max(axis=2) > 127).mean()
    np.testing.assert_array_equal(cropped, cropped[:, ::-1])
