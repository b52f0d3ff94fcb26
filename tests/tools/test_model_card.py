"""A model card says what was measured, of a trained model and its quantized file."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model_card(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("tools.model_card")


def test_the_card_holds_what_was_measured(model_card, trained, exported, tmp_path):
    (tmp_path / "notes.md").write_text("# digits\n\nNotes.\n")
    words = ["--data", "digits", "--notes", tmp_path / "notes.md", "--output", tmp_path / "card"]
    Image.new("L", (20, 20)).save(tmp_path / "other.png")
    words += ["--strangers", tmp_path]
    files = [trained / "model.keras", exported / "digits-int8.tflite"]
    assert model_card.main(list(map(str, [*files, *words, "--limit", 50]))) == 0
    figures = json.loads((tmp_path / "card" / "figures.json").read_text())
    assert list(figures["models"]) == ["float32 (Keras)", "int8 (digits-int8.tflite)"]
    assert figures["agreement"] >= 0.9
    assert list(figures["disturbed"]) == list(model_card.DISTURBANCES)
    card = (tmp_path / "card" / "README.md").read_text()
    assert card.startswith("# digits\n\nNotes.\n\n## Accuracy\n\nOn 50 test images:")
    for report in figures["models"].values():
        assert f"| {100 * report['top1']:.2f} | {100 * report['top5']:.2f} |" in card
    for name, values in figures["disturbed"].items():
        assert f"| {name} | {' | '.join(f'{100 * value:.2f}' for value in values)} |" in card
    for report in figures["models"].values():
        errors = (report["ece_without_temperature"], report["ece"])
        assert "| " + " | ".join(f"{100 * error:.2f}" for error in errors) + " |" in card
    ((source, reports),) = figures["strangers"].items()
    assert [report["images"] for report in reports] == [1, 1]
    assert f"| {Path(source).stem} | float32 (Keras) | 1 |" in card
    assert (tmp_path / "card" / "reliability.png").stat().st_size > 1000


def test_disturbances_are_the_same_every_time_and_keep_the_shape(model_card):
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    for channels in (images, images[..., :1]):
        for disturbance in model_card.DISTURBANCES.values():
            first = model_card.disturb(channels, disturbance)
            assert first.shape == channels.shape
            assert first.dtype == np.uint8
            assert not np.array_equal(first, channels)
            np.testing.assert_array_equal(first, model_card.disturb(channels, disturbance))
