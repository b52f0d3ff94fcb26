"""The temperature and the threshold in exported files."""

import dataclasses
import logging

import numpy as np
import pytest

from vitsd import load_model, save_model
from vitsd.data.sources import load_dataset
from vitsd.evaluation.confidence import fit_confidence
from vitsd.evaluation.evaluate import labeled_images
from vitsd_export import ExportOptions, export
from vitsd_export.data import ValidationData
from vitsd_runtime import Classifier, UsageError, read_spec
from vitsd_runtime.spec import Confidence


@pytest.mark.parametrize("ending", ["-float32.tflite", "-int8.tflite", ".onnx"])
def test_each_file_has_what_its_own_logits_give(exported_model, trained, ending):
    path = exported_model(ending)
    spec = read_spec(path)
    val = labeled_images(load_dataset("digits"), spec, "val")
    logits = Classifier.load(path, num_threads=1).logits(val.images)
    expected = fit_confidence(logits, val.labels, 0.95)
    assert spec.confidence.temperature == pytest.approx(expected.temperature, rel=1e-3)
    assert spec.confidence.threshold == pytest.approx(expected.threshold, abs=1e-3)
    assert (spec.confidence.coverage, spec.confidence.images) == (0.95, len(val))


@pytest.fixture
def model(trained, tmp_path):
    """Saves the trained model with changes to its spec."""

    def save(**changes):
        keras_model, spec = load_model(trained / "model.keras")
        save_model(keras_model, tmp_path / "model.keras", spec.replace(**changes))
        return tmp_path / "model.keras"

    return save


def test_the_coverage_is_the_trained_models_or_the_one_asked_for(model):
    path = model(confidence=Confidence(1.0, 0.1, coverage=0.8))
    (artifact,) = export(path, data="digits")
    assert artifact.spec.confidence.coverage == 0.8
    (artifact,) = export(path, data="digits", coverage=0.5, overwrite=True)
    assert artifact.spec.confidence.coverage == 0.5


def test_without_validation_images_the_trained_models_is_kept(model, trained, caplog):
    provenance = read_spec(trained / "model.keras").provenance
    recipe = {**provenance.recipe, "validation_fraction": 0.0}
    trained_confidence = Confidence(1.25, 0.125)
    path = model(
        confidence=trained_confidence,
        provenance=dataclasses.replace(provenance, recipe=recipe),
    )
    with caplog.at_level(logging.INFO, "vitsd_export"):
        (artifact,) = export(path, data="digits")
    assert artifact.spec.confidence == trained_confidence
    assert "keep the trained model's temperature" in caplog.text


@pytest.mark.parametrize(
    ("count", "trained_on", "said"),
    [
        (29, 0, "29 validation images, fewer than 30"),
        (0, 0, "0 validation images"),
        (200, 3, "trained on 3 of 200"),
        (200, 2, None),
        (30, 0, None),
    ],
)
def test_what_can_not_be_fitted_on_is_told(count, trained_on, said):
    images = np.zeros((count, 8, 8, 1), np.uint8)
    found = ValidationData("data", images, np.zeros(count, int), trained_on).unfit
    assert found is None if said is None else said in found


@pytest.mark.parametrize("coverage", [0, -1, 1.01, float("nan"), "0.9"])
def test_a_coverage_that_is_none_is_refused(coverage):
    with pytest.raises(UsageError, match="coverage"):
        ExportOptions(coverage=coverage)
