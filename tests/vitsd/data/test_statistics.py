"""Values of pixels that are odd, and those that are not."""

import numpy as np
import pytest

from vitsd.data.statistics import odd_values, pixel_counts, pixel_statistics, unlike_training

RANDOM = np.random.default_rng(0)
PHOTOS = RANDOM.integers(0, 256, (300, 12, 10, 3), dtype=np.uint8)


def oddities(images):
    return list(odd_values(images, pixel_counts(images)))


def test_statistics_are_exact_across_chunks():
    mean, variance = pixel_statistics(PHOTOS)
    np.testing.assert_allclose(mean, PHOTOS.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(variance, PHOTOS.astype(float).var(axis=(0, 1, 2)))


@pytest.mark.parametrize(
    "images",
    [
        PHOTOS,
        (PHOTOS > 240).astype(np.uint8) * 255,  # black and white, mostly black
        np.where(RANDOM.random(PHOTOS.shape) < 0.05, 255, 0).astype(np.uint8),
        PHOTOS // 3,  # 85 levels: dark, but photos
        PHOTOS // 3 + 100,
        PHOTOS[:1],
    ],
    ids=["noise", "binary", "sparse", "dark", "foggy", "one image"],
)
def test_usual_images_are_not_odd(images):
    assert oddities(images) == []


@pytest.mark.parametrize(
    ("images", "low", "high"),
    [
        ((RANDOM.integers(1000, 3800, (60, 9, 9, 1)) >> 8).astype(np.uint8), 3, 14),
        ((PHOTOS / 255.0).round().astype(np.uint8), 0, 1),
        (PHOTOS // 16, 0, 15),
        (PHOTOS // 4 + 100, 100, 163),
    ],
    ids=["12 bits in 16", "floats in 0..1", "at most 15", "a quarter"],
)
def test_values_that_fill_little_of_the_range_are_told_with_what_to_do(images, low, high):
    (text,) = oddities(images)
    assert f"between {low} and {high}" in text
    assert "`value_range=0,4095`" in text


def test_a_few_outliers_do_not_hide_an_unused_range():
    images = PHOTOS // 16
    images[0, 0] = 255  # a line of burned-in text
    assert "between 0 and 15" in oddities(images)[0]


def test_what_has_no_variance_is_told():
    assert oddities(np.repeat(PHOTOS[:1], 5, axis=0)) == [
        "All 5 images are equal: nothing can be learned from them."
    ]
    images = PHOTOS.copy()
    images[[7, 200]] = (5, 90, 200)
    assert oddities(images) == ["2 of 300 images have the same color in all pixels."]
    images = PHOTOS.copy()
    images[..., 2] = 128
    assert oddities(images) == ["Channel 3 has the value 128 in all pixels of all images."]


@pytest.mark.parametrize(
    ("images", "unlike"),
    [
        (PHOTOS, False),
        (PHOTOS // 2 + 60, False),
        (PHOTOS // 3, False),
        ((PHOTOS > 127).astype(np.uint8), True),
        (PHOTOS // 16, True),
        (np.full_like(PHOTOS, 120), True),
    ],
)
def test_values_scaled_unlike_the_models_are_told(images, unlike):
    mean, variance = pixel_statistics(PHOTOS)
    assert (unlike_training(images, mean, variance) is not None) == unlike
    if images.max() == 15:  # and the other way
        assert unlike_training(PHOTOS, *pixel_statistics(images)) is not None
