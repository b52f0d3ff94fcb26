"""What cameras do to images: each fault alone against Pillow, and how often each happens."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from vitsd.recipe import TrainingRecipe
from vitsd.training import camera
from vitsd.training.augmentation import BatchAugmentation


def pixels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_each_image_gets_the_brightness_of_its_own(channels):
    images = pixels((2, 5, 7, channels))
    found = camera.brighten(images, np.array([0.5, 1.5], np.float32))
    np.testing.assert_array_equal(found[0], np.rint(images[0] * 0.5))
    np.testing.assert_array_equal(found[1], np.rint(np.minimum(images[1] * 1.5, 255)))


@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_gaussian(channels):
    smooth = np.asarray(Image.fromarray(pixels((6, 6))).resize((40, 30), Image.Resampling.BICUBIC))
    images = np.repeat(np.repeat(smooth[None, ..., None], channels, axis=3), 2, axis=0)
    sigmas = np.array([0.7, 1.5], np.float32)
    found = camera.blur(images, sigmas)
    for image, sigma in zip(found, sigmas, strict=True):
        expected = Image.fromarray(smooth).filter(ImageFilter.GaussianBlur(float(sigma)))
        # Pillow approximates the Gaussian by boxes.
        assert np.abs(image[..., -1].astype(int) - np.asarray(expected)).mean() < 1


def test_no_blur_and_no_noise_change_nothing():
    images = pixels((3, 4, 5, 3))
    nothing = np.full(3, 1e-3, np.float32)
    np.testing.assert_array_equal(camera.blur(images, nothing), images)
    noise = camera.add_noise(images, nothing, np.random.default_rng(0))
    np.testing.assert_array_equal(noise, images)


def test_noise_is_as_strong_as_asked_and_differs_from_image_to_image():
    images = np.full((2, 50, 50, 3), 128, np.uint8)
    sigmas = np.array([3, 12], np.float32)
    noise = camera.add_noise(images, sigmas, np.random.default_rng(0)) - 128.0
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3)), sigmas, rtol=0.05)
    np.testing.assert_allclose(noise.mean(axis=(1, 2, 3)), 0, atol=0.5)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("channels", [1, 3])
def test_compression_is_that_of_a_file_of_this_quality(channels):
    images = pixels((2, 9, 17, channels))
    found = camera.compress(images, np.array([30, 95.7], np.float32))
    for image, original, quality in zip(found, images, (30, 95), strict=True):
        file = io.BytesIO()
        Image.fromarray(original.squeeze()).save(file, "JPEG", quality=quality)
        np.testing.assert_array_equal(image.squeeze(), np.asarray(Image.open(file)))


def test_images_that_no_jpeg_holds_are_not_compressed():
    images = pixels((2, 5, 5, 4))
    assert camera.compress(images, np.array([5, 5], np.float32)) is images


def test_each_fault_happens_as_often_as_asked(monkeypatch):
    counts = []

    def counted(images, strength, random):
        counts.append(len(images))
        assert 2 <= strength.min() <= strength.max() <= 3
        return images

    monkeypatch.setattr(camera, "_CHANGES", ((counted, (2, 3)),) * 4)
    images = pixels((1000, 2, 2, 1))
    camera.as_by_camera(images, 0.3, np.random.default_rng(0))
    assert len(counts) == 4
    assert all(abs(count - 300) < 60 for count in counts)


def test_the_recipe_turns_it_on_for_images_of_any_size():
    images, labels = pixels((40, 1, 3, 3)), np.ones((40, 1), np.float32)
    augment = BatchAugmentation(TrainingRecipe(camera=0.5))
    changed, _ = augment(images, labels, np.random.default_rng(0))
    again, _ = augment(images, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, again)
    share = np.mean(np.any(changed != images, axis=(1, 2, 3)))
    assert 0.7 < share < 1
    assert BatchAugmentation(TrainingRecipe()).changes_nothing
    assert not BatchAugmentation(TrainingRecipe(camera=0.5)).changes_nothing
    same, _ = BatchAugmentation(TrainingRecipe())(images, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(same, images)
