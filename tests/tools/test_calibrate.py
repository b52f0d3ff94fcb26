"""A temperature and a threshold for models that exist."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from vitsd_runtime import Classifier, UsageError, read_spec

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("tools.calibrate")


def test_only_the_spec_changes(tool, exported, digits, tmp_path):
    path = tmp_path / "m.tflite"
    shutil.copy(exported / "digits-int8.tflite", path)
    before, logits = read_spec(path), Classifier.load(path).logits(digits.images)
    said = tool.calibrate(path, "digits", 0.8)
    after = read_spec(path)
    assert after.confidence.coverage == 0.8
    assert f"temperature {after.confidence.temperature:.4f}" in said
    assert after.integrity.sha256 == before.integrity.sha256
    unchanged = {"confidence": None, "integrity": None}
    assert after.replace(**unchanged) == before.replace(**unchanged)
    np.testing.assert_array_equal(Classifier.load(path).logits(digits.images), logits)


def test_too_few_images_leave_the_file_as_it_is(tool, exported, tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    shutil.copy(exported / "digits-int8.tflite", path)
    content = path.read_bytes()
    monkeypatch.setattr(tool, "fit_confidence", lambda *_: None)
    with pytest.raises(UsageError, match="fewer than 30"):
        tool.calibrate(path, "digits", 0.95)
    assert path.read_bytes() == content
