"""NumPy augmentation equals the Keras layers for the same drawn parameters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitsd_runtime import Augmenter, UsageError
from vitsd_runtime.images.augmentation import AugmentationParams


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


def draw(batch, flip=None, angle=0.0, height_zoom=1.0, width_zoom=1.0):
    def full(value):
        return np.broadcast_to(np.float32(value), batch).copy()

    flip = np.zeros(batch, bool) if flip is None else np.asarray(flip)
    return AugmentationParams(flip, full(angle), full(height_zoom), full(width_zoom))


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_rotation_equals_keras(keras, height, width, seed):
    images = np.random.default_rng(seed).random((3, height, width, 2), np.float32)
    layer = keras.layers.RandomRotation(0.3, seed=seed % 1000)
    transformation = layer.get_random_transformation(images, training=True)
    expected = np.asarray(layer.transform_images(images, transformation))
    angle = np.deg2rad(np.asarray(transformation["angle"]))
    result = Augmenter(None).apply(images, draw(3, angle=angle))
    # A sampling point on the border between two pixels may fall to either side.
    assert np.mean(np.abs(result - expected) > 1e-3) < 0.01


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_zoom_equals_keras(keras, height, width, seed):
    images = np.random.default_rng(seed).random((3, height, width, 2), np.float32)
    layer = keras.layers.RandomZoom(0.3, 0.3, seed=seed % 1000)
    transformation = layer.get_random_transformation(images, training=True)
    expected = np.asarray(layer.transform_images(images, transformation))
    zooms = {name: np.asarray(transformation[name])[:, 0] for name in ("height_zoom", "width_zoom")}
    result = Augmenter(None).apply(images, draw(3, **zooms))
    assert np.mean(np.abs(result - expected) > 1e-3) < 0.01


def test_flip_equals_keras(keras):
    images = np.random.default_rng(0).random((6, 5, 7, 3), np.float32)
    layer = keras.layers.RandomFlip("horizontal", seed=1)
    transformation = layer.get_random_transformation(images, training=True)
    flips = np.asarray(transformation["flips"]).reshape(-1)
    expected = np.asarray(layer.transform_images(images, transformation))
    result = Augmenter("horizontal").apply(images, draw(6, flip=flips))
    assert 0 < flips.sum() < 6
    np.testing.assert_array_equal(result, expected)


def test_the_three_follow_each_other_as_in_training(keras):
    images = np.random.default_rng(0).random((4, 24, 24, 3), np.float32)
    rotation, zoom = (
        keras.layers.RandomRotation(0.05, seed=2),
        keras.layers.RandomZoom(0.2, 0.2, seed=3),
    )
    turn = rotation.get_random_transformation(images)
    scale = zoom.get_random_transformation(images)
    flipped = images[:, :, ::-1]
    expected = np.asarray(zoom.transform_images(rotation.transform_images(flipped, turn), scale))
    parameters = draw(
        4,
        np.ones(4, bool),
        np.deg2rad(np.asarray(turn["angle"])),
        np.asarray(scale["height_zoom"])[:, 0],
        np.asarray(scale["width_zoom"])[:, 0],
    )
    np.testing.assert_allclose(Augmenter().apply(images, parameters), expected, atol=2e-3)


def test_draws_stay_in_range_and_repeat_with_the_seed(spec):
    augmenter = Augmenter.from_spec(spec, seed=5)
    parameters = augmenter.draw(2000)
    assert 0.4 < parameters.flip.mean() < 0.6
    assert 0.95 * 0.05 * 2 * np.pi < np.abs(parameters.angle).max() <= 0.05 * 2 * np.pi
    assert 0.8 <= parameters.width_zoom.min() < 0.81
    assert not np.array_equal(parameters.width_zoom, parameters.height_zoom)
    again = Augmenter.from_spec(spec, seed=5).draw(2000)
    np.testing.assert_array_equal(parameters.angle, again.angle)


def test_batches_cover_every_image_once():
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1).repeat(4, axis=1).repeat(4, axis=2)
    seen = []
    for batch, labels in Augmenter(rotation=0.1, seed=1).batches(images, np.arange(10), 4):
        np.testing.assert_allclose(
            batch[:, 0, 0, 0], labels, atol=1e-5
        )  # a flat image stays as it is
        seen += labels.tolist()
    assert sorted(seen) == list(range(10))
    assert seen != sorted(seen)


@pytest.mark.parametrize("options", [{"flip": "vertical"}, {"rotation": 2}, {"zoom": 1.0}])
def test_impossible_ranges_are_refused(options):
    with pytest.raises(UsageError):
        Augmenter(**options)
