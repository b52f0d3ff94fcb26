"""Models for values of another range: the images of a dataset are scaled once, not twice."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vitsd.data.sources import load_dataset
from vitsd.evaluation.evaluate import evaluate, load_matching
from vitsd.evaluation.predict import model_logits
from vitsd_export.data import ParityData
from vitsd_export.gate import exported_logits
from vitsd_runtime import Classifier, read_spec
from vitsd_runtime.formats import write_spec

MODEL = Path(__file__).parents[1] / "runtime" / "data" / "schema1" / "digits.onnx"


@pytest.fixture
def scaled(tmp_path):
    """The model, for values 0 to 16."""
    path = tmp_path / "digits.onnx"
    shutil.copyfile(MODEL, path)
    write_spec(path, read_spec(MODEL).replace(value_range=(0, 16)))
    return path


def test_evaluation_and_gate_take_a_datasets_images_as_they_are(scaled):
    values = np.random.default_rng(0).integers(0, 17, (9, 8, 8, 1), dtype=np.uint8)
    images = np.rint(values * (255 / 16)).astype(np.uint8)  # what load_dataset makes of them
    expected = model_logits(MODEL, images, batch_size=4)
    np.testing.assert_array_equal(model_logits(scaled, images, batch_size=4), expected)
    gate = exported_logits(scaled, read_spec(scaled), images)
    np.testing.assert_allclose(gate, expected, atol=1e-4)
    # A device gets the values themselves.
    on_device = Classifier.load(scaled, num_threads=1, batch_size=4).logits(values)
    np.testing.assert_allclose(on_device, expected, atol=1e-4)


def test_the_command_answers_as_the_classifier_does(scaled, tmp_path, command_here):
    values = np.random.default_rng(0).integers(0, 17, (8, 8)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "digit.png")
    done = command_here("vitsd-predict", scaled, tmp_path / "digit.png", "--json")
    answer = json.loads(done.stdout)
    (best, *_) = Classifier.load(scaled, num_threads=1).predict(values)[0]
    assert answer["predictions"][0]["label"] == best.label
    assert answer["predictions"][0]["probability"] == pytest.approx(best.probability, abs=1e-4)


@pytest.mark.parametrize(("top", "warned"), [(255, False), (1, True)])
def test_images_scaled_unlike_the_models_are_told(tmp_path, caplog, command_here, top, warned):
    digits = load_dataset("digits")
    images, labels = digits.test.images // (255 // top), digits.test.labels
    path = tmp_path / "other.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    spec = read_spec(MODEL)

    def texts():
        found = [r.getMessage() for r in caplog.records if "scaled differently" in r.getMessage()]
        caplog.clear()
        return found

    evaluate(MODEL, path, limit=50)
    assert bool(texts()) == warned
    model = SimpleNamespace(predict=lambda images, **_: np.zeros((len(images), 10)))
    ParityData.load(model, spec, load_matching(path, spec))
    assert bool(texts()) == warned
    said = command_here("vitsd-parity", MODEL, MODEL, "--data", path, "--limit", 50).stderr
    assert ("scaled differently" in said) == warned
