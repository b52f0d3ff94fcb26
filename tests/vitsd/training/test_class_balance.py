"""Unequal classes: what is said of them, and weights that make them count alike."""

import keras
import numpy as np
import pytest

from vitsd.config import VitConfig
from vitsd.data.dataset import Dataset, Split
from vitsd.recipe import TrainingRecipe
from vitsd.training.augmentation import BatchAugmentation
from vitsd.training.callbacks import BestWeights, read_best
from vitsd.training.class_balance import balanced_weights, describe_imbalance, describe_scarcity
from vitsd.training.optimizer import compile_model
from vitsd.training.sequence import ImageSequence
from vitsd.training.train import train
from vitsd_runtime import UsageError

LABELS = np.repeat([0, 1, 3], [80, 16, 4])
NAMES = ("cat", "dog", "fox", "owl")
UNEQUAL = np.repeat([0, 1], [290, 10])


def split():
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (len(LABELS), 8, 8, 1), dtype=np.uint8), LABELS)


def test_weights_make_classes_count_alike():
    weights = balanced_weights(LABELS, 4)
    # n / (k n_c), of the three classes that have images
    np.testing.assert_allclose(weights, [100 / 240, 100 / 48, 0, 100 / 12], rtol=1e-6)
    totals = np.bincount(LABELS, weights[LABELS], minlength=4)
    np.testing.assert_allclose(totals, [100 / 3, 100 / 3, 0, 100 / 3], rtol=1e-6)
    assert weights[LABELS].mean() == pytest.approx(1)


def test_equal_classes_weigh_one():
    np.testing.assert_array_equal(balanced_weights(np.arange(12) % 4, 4), np.ones(4))


@pytest.mark.parametrize("mixing", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}])
def test_a_mixed_image_weighs_what_its_parts_weigh(mixing):
    weights = balanced_weights(LABELS, 4)
    augment = BatchAugmentation(TrainingRecipe(**mixing))
    batch = ImageSequence(split(), 4, 100, seed=1, augment=augment, class_weights=weights)[0]
    _, labels, sample_weights = batch
    assert len(np.unique(labels.max(axis=1).round(3))) > 2  # some are mixed
    np.testing.assert_allclose(sample_weights, (labels * weights).sum(axis=1), rtol=1e-5)


def test_without_weights_batches_hold_images_and_labels_alone():
    assert len(ImageSequence(split(), 4, 10, seed=1)[0]) == 2
    images, labels, weights = ImageSequence(split(), 4, 100, class_weights=np.ones(4, "f4"))[0]
    assert (len(images), labels.shape, weights.tolist()) == (100, (100, 4), [1.0] * 100)


class First(keras.layers.Layer):
    """Always answers the first class."""

    def call(self, inputs):
        flat = keras.ops.reshape(keras.ops.cast(inputs, "float32"), (-1, 64))
        return keras.ops.concatenate([flat[:, :1] * 0 + 1, flat[:, :3] * 0], axis=1)


def test_validation_measures_the_mean_of_the_classes_recalls():
    inputs = keras.Input((8, 8, 1), dtype="uint8")
    model = keras.Model(inputs, First()(inputs))
    compile_model(model, TrainingRecipe(class_weights="balanced"), 1)
    # Batches of 7: the last is smaller, and most have only one class.
    weighted = ImageSequence(split(), 4, 7, class_weights=balanced_weights(LABELS, 4))
    measured = model.evaluate(weighted, verbose=0, return_dict=True)
    assert measured["top1"] == pytest.approx(0.8)
    assert measured["balanced_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([{"val_top1": 0.96}, {"val_top1": 0.90}], 1),
        (
            [
                {"val_top1": 0.96, "val_balanced_accuracy": 0.33},
                {"val_top1": 0.90, "val_balanced_accuracy": 0.85},
            ],
            2,
        ),
        ([{}, {}], 2),
    ],
    ids=["unweighted", "balanced", "no validation"],
)
def test_the_best_epoch_is_the_one_with_the_best_balanced_accuracy(tmp_path, measured, best):
    callback = BestWeights(tmp_path / "best.npz")
    callback.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    for epoch, logs in enumerate(measured):
        callback.on_epoch_end(epoch, {"loss": 1.0, **logs})
    assert read_best(tmp_path / "best.npz")[0] == best


def test_very_unequal_classes_are_told_before_training():
    text = describe_imbalance(np.repeat([0, 1, 2], [480, 12, 30]), ("cat", "dog", "owl"))
    assert "480 training images of cat, 12 of dog" in text
    assert "`class_weights=balanced`" in text
    assert describe_imbalance(np.repeat([0, 1], [40, 8]), ("cat", "dog")) is None
    assert "no training images of fox" in describe_imbalance(LABELS, NAMES)


def test_few_images_are_told_before_training():
    def said(*counts, from_scratch=True):
        labels = np.repeat([0, 1], counts)
        return describe_scarcity(labels, ("cat", "dog"), from_scratch=from_scratch)

    assert "Few training images: 9 of dog." in said(500, 9)
    assert "509 training images are few" in said(500, 9)
    assert "Few training images: 9 of dog." in said(2000, 9, from_scratch=False)
    assert "999 training images are few" in said(500, 499)
    assert "`pretrained=vit-edge-cifar100`" in said(500, 499)
    assert said(500, 499, from_scratch=False) is None
    assert said(500, 500) is None


def test_other_weights_are_refused():
    with pytest.raises(UsageError, match="class_weights must be one of none, balanced"):
        TrainingRecipe(class_weights="heavy")


def warnings_of(caplog, tmp_path, images, recipe=None):
    """What is said before training, which then ends at once: there is no run to resume."""
    data = Dataset("pets", NAMES[:2], Split(images, UNEQUAL), Split(images, UNEQUAL))
    with pytest.raises(UsageError, match="no run"):
        train(VitConfig(), recipe or TrainingRecipe(), data, tmp_path / "run", resume=True)
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_odd_values_and_unequal_classes_are_told_before_training(caplog, tmp_path):
    images = np.random.default_rng(0).integers(0, 16, (300, 8, 8, 1), dtype=np.uint8)
    about_values, about_classes = warnings_of(caplog, tmp_path, images)[-2:]
    assert about_values.startswith("pets: 99.9 % of the pixel values lie between 0 and 15")
    assert about_classes.startswith("pets: The classes are very unequal: ")


def test_balanced_classes_need_no_word(caplog, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
    recipe = TrainingRecipe(class_weights="balanced")
    said = warnings_of(caplog, tmp_path, images, recipe)
    assert not [text for text in said if "unequal" in text or "values" in text]
