"""The models as they are shipped: two files of each, found by its name."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from vitsd import from_pretrained
from vitsd.evaluation.predict import predict_logits
from vitsd.hub.pretrained import locate
from vitsd_export import export
from vitsd_runtime import Classifier
from vitsd_runtime.models.catalog import MODELS

NAME = "vit-edge-cifar100"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Parts of two photographs, uint8 (200, 32, 32, 3)."""
    generator = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    found = []
    for i in range(200):
        side = int(generator.integers(64, 400))
        photo = photos[i % 2]
        left, top = (int(generator.integers(0, length - side)) for length in photo.size)
        found.append(
            photo.resize((32, 32), Image.Resampling.BOX, box=(left, top, left + side, top + side))
        )
    return np.stack(found)


@pytest.mark.parametrize("name", MODELS)
def test_both_files_are_the_same_model(crops, name):
    model, spec = from_pretrained(name)
    assert locate(name).stat().st_size <= 6e6
    runtime = Classifier.load(name)
    assert runtime.spec.architecture == spec.architecture
    assert runtime.spec.class_names == spec.class_names
    assert spec.provenance.recipe == runtime.spec.provenance.recipe
    expected, found = predict_logits(model, crops), runtime.logits(crops)
    assert len(np.unique(expected.argmax(axis=1))) > 10
    assert np.mean(expected.argmax(axis=1) == found.argmax(axis=1)) >= 0.9
    assert np.abs(expected - found).mean() < 0.1 * expected.std()


def test_it_is_exported_by_its_name_into_the_current_folder(crops, tmp_path, monkeypatch):
    model, spec = from_pretrained(NAME)
    logits = predict_logits(model, crops)
    labels = logits.argmax(axis=1)
    data = {
        "x_train": crops,
        "y_train": labels,
        "x_test": crops,
        "y_test": labels,
        "class_names": spec.class_names,
    }
    np.savez(tmp_path / "crops.npz", **data)
    monkeypatch.chdir(tmp_path)
    (artifact,) = export(NAME, "tflite", "none", data=str(tmp_path / "crops.npz"))
    assert (tmp_path / f"{NAME}-float32.tflite").samefile(artifact.path)
    np.testing.assert_allclose(
        Classifier.load(artifact.path).logits(crops), logits, atol=1e-3 * logits.std()
    )
