"""Telling known images from strangers."""

import logging

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from vitsd.evaluation.strangers import load_strangers, separation
from vitsd_runtime import UsageError, VitsdError


def test_the_area_is_that_of_scikit_learn_also_with_equal_scores():
    random = np.random.default_rng(0)
    known, strangers = random.normal(1, 1, 400), random.normal(0, 1, 300)
    for decimals in (8, 0):
        scores = [np.round(values, decimals) for values in (known, strangers)]
        expected = roc_auc_score([1] * 400 + [0] * 300, np.concatenate(scores))
        assert separation(*scores)["auroc"] == pytest.approx(expected)


def test_false_positives_are_counted_where_95_percent_are_kept():
    known = np.arange(100)
    assert separation(known, np.array([4, 5, 6, 7]))["fpr_at_95_coverage"] == 0.75
    assert separation(known, known)["auroc"] == 0.5
    assert separation(known, known - 1000) == {"auroc": 1.0, "fpr_at_95_coverage": 0.0}


def test_photos_in_a_folder_are_strangers_whatever_folders_they_lie_in(spec, tmp_path, caplog):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        Image.new("L", (50, 60), 7).save(tmp_path / name)
    (tmp_path / "c.jpg").write_bytes(b"\xff\xd8\xff no image")
    with caplog.at_level(logging.WARNING, "vitsd"):
        images = load_strangers(tmp_path, spec)
    assert images.shape == (2, *spec.input_size)
    assert "1 of 3 images" in caplog.text
    assert len(load_strangers(tmp_path / "sub", spec, limit=1)) == 1


def test_datasets_of_another_size_and_color_are_strangers_too(spec):
    assert load_strangers("digits", spec, limit=5).shape == (5, *spec.input_size)


def test_the_own_classes_among_strangers_are_told(spec, caplog):
    load_strangers("digits", spec.replace(class_names=("7", "cat")), limit=5)
    assert "trained to tell 7" in caplog.text


def test_without_images_there_is_nothing_to_measure(spec, tmp_path):
    with pytest.raises(UsageError, match="No images"):
        load_strangers(tmp_path, spec)
    (tmp_path / "c.jpg").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(VitsdError, match="no readable images"):
        load_strangers(tmp_path, spec)
    with pytest.raises(UsageError, match="no dataset"):
        load_strangers("nothing", spec)


def test_strangers_have_the_models_value_range(spec, tmp_path):
    values = np.linspace(0, 4095, 64).reshape(1, 8, 8).astype(np.uint16)
    path = tmp_path / "deep.npz"
    images, labels = np.repeat(values, 4, axis=0), np.arange(4) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    spec = spec.replace(value_range=(0, 4095))
    assert load_strangers(path, spec).max() == 255
    # Those of built-in datasets fill 0 to 255.
    assert load_strangers("digits", spec, limit=3).max() == 255
