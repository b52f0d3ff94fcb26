"""Augmentation of batches: RandAugment as Keras has it, crops, MixUp and CutMix."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitsd.recipe import TrainingRecipe
from vitsd.training import rand_augment as ra
from vitsd.training.augmentation import BatchAugmentation, cut_mix, mix_up, random_crop

COUNT = 3
SHAPES = st.tuples(st.just(COUNT), st.integers(2, 20), st.integers(2, 20), st.sampled_from([1, 3]))
SEEDS = st.integers(0, 2**32 - 1)


def pixels(shape, seed, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, shape, np.uint8)


def share(draw):
    return draw.random(COUNT, np.float32)


def column(values):
    return values[:, None, None, None]


# Each: Keras' layer, and what draws parameters for both: (ours, Keras').
LAYERS = keras.layers
OPERATIONS = {
    "shear": (
        LAYERS.RandomShear(0.5, 0.5),
        lambda draw, shape: (
            parameters := (share(draw) - 0.5, share(draw) - 0.5),
            {"shear_factor": np.stack(parameters, axis=1), "input_shape": shape},
        ),
    ),
    "translate": (
        LAYERS.RandomTranslation(0.5, 0.5),
        lambda draw, shape: (
            parameters := (share(draw), share(draw)),
            {
                "translations": np.stack(
                    [parameters[1] * shape[2], parameters[0] * shape[1]], axis=1
                ),
                "input_shape": shape,
            },
        ),
    ),
    "brighten": (
        LAYERS.RandomBrightness(0.5),
        lambda draw, shape: (p := (share(draw),), {"rgb_delta": column(255 * p[0])}),
    ),
    "fade": (
        LAYERS.RandomColorDegeneration(0.5),
        lambda draw, shape: (p := (share(draw),), {"factor": column(p[0])}),
    ),
    "raise_contrast": (
        LAYERS.RandomContrast(0.5, value_range=(0, 255)),
        lambda draw, shape: (p := (share(draw),), {"contrast_factor": column(1 + p[0])}),
    ),
    "sharpen": (
        LAYERS.RandomSharpness(0.5),
        lambda draw, shape: (p := (share(draw),), {"factor": p[0]}),
    ),
    "posterize": (
        LAYERS.RandomPosterization(4),
        lambda draw, shape: (
            p := (draw.integers(1, 9, COUNT),),
            {"shift_factor": (8 - p[0]).astype(np.uint8)},
        ),
    ),
    "solarize": (
        LAYERS.Solarization(0.5, 0.5),
        lambda draw, shape: (
            p := (share(draw), share(draw)),
            {"additions": column(255 * p[0]), "thresholds": column(255 * p[1])},
        ),
    ),
    "auto_contrast": (LAYERS.AutoContrast(), lambda draw, shape: ((), None)),
}


@pytest.mark.parametrize("name", OPERATIONS)
@given(shape=SHAPES, seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_operations_equal_those_of_keras(name, shape, seed):
    layer, draw = OPERATIONS[name]
    images = pixels(shape, seed)
    ours, theirs = draw(np.random.default_rng(seed + 1), shape)
    expected = np.asarray(layer.transform_images(images.astype(np.float32), theirs))
    found = getattr(ra, name)(images, *ours)
    assert found.dtype == np.uint8
    # Rounding to bytes; at a threshold or a border between pixels, to either side of it.
    assert np.mean(np.abs(found - expected) > 0.51) < 0.02


@given(shape=SHAPES, seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_rotation_equals_that_of_keras(shape, seed):
    images = pixels(shape, seed)
    layer = keras.layers.RandomRotation((0, 0.5), seed=seed % 1000)
    drawn = layer.get_random_transformation(images)
    expected = np.asarray(layer.transform_images(images.astype(np.float32), drawn))
    found = ra.rotate(images, np.asarray(drawn["angle"]) / np.float32(360))
    assert np.mean(np.abs(found - expected) > 0.51) < 0.02


@given(shape=SHAPES, seed=SEEDS, low=st.integers(0, 255))
@settings(max_examples=8, deadline=None)
def test_equalizing_equals_that_of_keras_for_each_image(shape, seed, low):
    images = pixels(shape, seed, low)
    layer = keras.layers.Equalization()
    floats = images.astype(np.float32)[:, None]
    expected = np.concatenate([layer.transform_images(image, None) for image in floats])
    np.testing.assert_array_equal(ra.equalize(images), expected)


@pytest.mark.parametrize("value", [0, 77, 255])
@pytest.mark.parametrize("operation", [ra.equalize, ra.auto_contrast])
def test_flat_channels_stay(operation, value):
    images = pixels((2, 6, 6, 3), seed=0)
    images[1, ..., 1] = value
    changed = operation(images)
    np.testing.assert_array_equal(changed[1, ..., 1], value)
    assert (changed[0] != images[0]).any()


def test_colors_are_only_those_of_three_channels():
    images = pixels((2, 6, 6, 4), seed=0)
    np.testing.assert_array_equal(ra.fade(images, np.ones(2, np.float32)), images)


def test_every_image_draws_operations_of_its_own():
    images = np.repeat(pixels((1, 8, 8, 3), seed=1), 300, axis=0)
    changed = ra.rand_augment(images, 0.3, np.random.default_rng(0))
    assert len({image.tobytes() for image in changed}) > 200
    again = ra.rand_augment(images, 0.3, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, again)
    assert (images == images[0]).all()  # they are not written to


def test_all_operations_are_drawn_alike(monkeypatch):
    counts = np.zeros(len(ra.OPERATIONS), int)

    def counted(number):
        def operation(images, draws):
            counts[number] += len(images)
            return images

        return operation

    monkeypatch.setattr(ra, "OPERATIONS", [counted(n) for n in range(len(counts))])
    ra.rand_augment(pixels((1100, 2, 2, 1), 0), 0.3, np.random.default_rng(0))
    assert counts.sum() == 2 * 1100
    assert (np.abs(counts - 200) < 60).all()


@given(magnitude=st.floats(0, 1, exclude_max=True), seed=SEEDS)
@settings(max_examples=30)
def test_what_is_drawn_stays_in_the_ranges_of_keras(magnitude, seed):
    draws = ra.Draws(50, magnitude, np.random.default_rng(seed))
    amounts, bits = draws.amount(), draws.bits()
    assert amounts.min() >= 0
    assert amounts.max() <= magnitude
    assert set(draws.sign()) == {-1, 1}
    assert bits.min() >= 1
    assert bits.max() <= max(1, int(8 * magnitude) - 1)


def test_crops_differ_within_a_batch_and_show_all_places():
    images = np.arange(1, 17, dtype=np.uint8).reshape(1, 4, 4, 1).repeat(200, axis=0)
    crops = random_crop(images, 1, np.random.default_rng(0))
    padded = np.pad(images[0], ((1, 1), (1, 1), (0, 0)))
    expected = {padded[y : y + 4, x : x + 4].tobytes() for y in range(3) for x in range(3)}
    assert {crop.tobytes() for crop in crops} == expected


def test_crops_of_colored_oblong_images_keep_their_pixels_together():
    images = pixels((40, 3, 5, 3), seed=0, low=1)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for crop, around in zip(random_crop(images, 2, np.random.default_rng(0)), padded, strict=True):
        windows = [around[y : y + 3, x : x + 5] for y in range(5) for x in range(5)]
        assert any(np.array_equal(crop, window) for window in windows)


def halves():
    """Black and light images, and their labels."""
    images = np.zeros((16, 32, 32, 3), np.uint8)
    images[8:] = 200
    return images, np.eye(2, dtype=np.float32)[np.arange(16) // 8]


@pytest.mark.parametrize(("mixer", "tolerance"), [(mix_up, 0.5 / 200), (cut_mix, 1e-6)])
def test_mixing_keeps_labels_and_pixels_in_step(mixer, tolerance):
    mixed, labels = mixer(*halves(), 1.0, np.random.default_rng(0))
    assert (mixed.dtype, labels.dtype) == (np.uint8, np.float32)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)) / 200, labels[:, 1], atol=tolerance)
    assert len(np.unique(labels.round(3))) > 2


def test_cut_mix_puts_in_a_rectangle_of_all_channels():
    mixed, _ = cut_mix(*halves(), 1.0, np.random.default_rng(0))
    assert (mixed == mixed[..., :1]).all()
    for image in mixed[8:, ..., 0]:
        black = image == 0
        rows, columns = black.any(axis=1), black.any(axis=0)
        np.testing.assert_array_equal(black, rows[:, None] & columns)
        assert (np.abs(np.diff(rows.astype(int))).sum(), black.all()) <= (2, False)


@pytest.mark.parametrize("mixer", [mix_up, cut_mix])
@pytest.mark.parametrize("alpha", [0.01, 1, 100])
def test_shares_are_those_of_the_beta_distribution(mixer, alpha):
    labels = np.eye(2, dtype=np.float32)[np.arange(4000) % 2]
    images = np.zeros((4000, 20, 20, 1), np.uint8)
    _, mixed = mixer(images, labels, alpha, np.random.default_rng(0))
    # Half of the partners are of the same class, and show nothing.
    shares = mixed[np.arange(4000), np.arange(4000) % 2]
    assert np.mean(shares - 0.75) == pytest.approx(0, abs=0.02)
    of_others = shares[shares < 1]
    if alpha == 100:  # near one half
        assert np.std(of_others) == pytest.approx(0.5 / np.sqrt(201), abs=0.02)
    if alpha == 0.01:
        assert np.isin(of_others.round(1), [0, 1]).mean() > 0.95


def test_one_image_and_no_class_at_all_can_be_augmented():
    recipe = TrainingRecipe(crop_padding=1, rand_augment=0.5, mixup_alpha=0.2, cutmix_alpha=1.0)
    augment = BatchAugmentation(recipe)
    for seed in range(4):
        images, labels = augment(
            pixels((1, 1, 1, 1), 0), np.ones((1, 1), np.float32), np.random.default_rng(seed)
        )
        assert images.shape == (1, 1, 1, 1)
        assert labels.tolist() == [[1]]
