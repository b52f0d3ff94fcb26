"""Flip, rotation and zoom in the training step: those of the runtime, and so those of Keras."""

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from vitsd.recipe import TrainingRecipe
from vitsd.training.augmentation import model_augmentation
from vitsd.training.random_affine import RandomAffine, rotate, zoom
from vitsd_runtime import Augmenter
from vitsd_runtime.images.augmentation import AugmentationParams

SIZES = st.integers(2, 24)


@given(SIZES, SIZES, st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_images_are_those_of_the_runtime(height, width, channels, seed):
    random = np.random.default_rng(seed)
    images = random.random((3, height, width, channels), np.float32)
    flip, angle = random.random(3) < 0.5, random.uniform(-3, 3, 3).astype(np.float32)
    zooms = random.uniform(0.4, 1.9, (2, 3)).astype(np.float32)
    expected = Augmenter(None).apply(images, AugmentationParams(flip, angle, *zooms))
    side = ops.convert_to_tensor(np.where(flip, -1, 1).astype(np.float32))
    turned = rotate(ops.convert_to_tensor(images), side, ops.convert_to_tensor(angle))
    found = zoom(turned, *map(ops.convert_to_tensor, zooms))
    # A place on the border between two pixels may fall to either side of it.
    assert np.mean(np.abs(ops.convert_to_numpy(found) - expected) > 1e-3) < 0.01


def augmented(images, **changes):
    options = {"flip": True, "rotation": 0.0, "zoom": 0.0, "seed": 5} | changes
    return ops.convert_to_numpy(RandomAffine(**options)(images, training=True))


def test_each_option_alone_does_what_it_says():
    ramp = np.broadcast_to(np.arange(9, dtype=np.float32)[:, None], (200, 9, 9, 1)).copy()
    left = augmented(ramp)[:, 4, 0, 0]
    assert set(left) == {0.0, 8.0}
    assert 60 < np.sum(left == 8) < 140
    # How steeply the values rise at the center, to the right or downward, tells angle and zoom.
    turned = augmented(ramp, flip=False, rotation=0.1)
    angles = np.arcsin((turned[:, 3, 4, 0] - turned[:, 5, 4, 0]) / 2)
    assert -2 * np.pi * 0.1 <= angles.min() + 1e-5 < -0.5
    assert 0.5 < angles.max() <= 2 * np.pi * 0.1 + 1e-5
    zoomed = augmented(ramp, flip=False, zoom=0.2)
    slopes = (zoomed[:, 4, 5, 0] - zoomed[:, 4, 3, 0]) / 2
    assert 0.8 <= slopes.min() + 1e-5 < 0.83
    assert 1.17 < slopes.max() <= 1.2 + 1e-5


def test_at_inference_images_pass_and_a_seed_repeats_the_draws():
    images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    (layer,) = model_augmentation(TrainingRecipe())
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    np.testing.assert_array_equal(layer(images), images)
    first, second = (ops.convert_to_numpy(one(images, training=True)) for one in (layer, again))
    np.testing.assert_array_equal(first, second)
    assert (ops.convert_to_numpy(layer(images, training=True)) != first).any()


def test_a_recipe_without_any_has_no_layer():
    assert model_augmentation(TrainingRecipe(flip=False, rotation=0.0, zoom=0.0)) == []
