"""Scores that tell known images from strangers."""

import importlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("tools.strangers")


def test_every_score_is_higher_for_an_answer_that_stands_out(tool):
    logits = np.array([[9.0, 0.0, 1.0], [3.0, 2.0, 2.5]])
    for name, score in tool.SCORES.items():
        sure, unsure = score(logits)
        assert sure > unsure, name


def test_scores_are_the_formulas_of_their_papers(tool):
    logits = np.log([[0.7, 0.2, 0.1]])
    found = {name: score(logits)[0] for name, score in tool.SCORES.items()}
    assert found["max probability"] == pytest.approx(0.7)
    assert found["margin"] == pytest.approx(0.5)
    assert found["-entropy"] == pytest.approx(-0.8018186)
    assert found["max logit"] == pytest.approx(np.log(0.7))
    assert found["energy"] == pytest.approx(0, abs=1e-12)


def test_textures_are_always_the_same_and_each_another(tool, spec):
    images = tool.textures(spec, 10)
    assert images.shape == (10, *spec.input_size)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, tool.textures(spec, 10))
    assert len(np.unique(images.reshape(10, -1), axis=0)) == 10
    assert all(np.ptp(image) > 0 for image in images)


def test_fewer_strangers_are_taken_for_known_the_fewer_images_are_known(tool):
    random = np.random.default_rng(0)
    known, strangers = random.normal(0, 3, (500, 9)), random.normal(0, 2, (500, 9))
    shares = list(tool.compare(known, strangers)["by_coverage"].values())
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] < shares[0] < 1
