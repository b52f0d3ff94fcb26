"""Temperature and threshold from validation logits."""

import numpy as np
import pytest

from vitsd.evaluation.confidence import FEWEST_IMAGES, fit_confidence, fit_temperature
from vitsd.evaluation.metrics import accuracy_report, calibration
from vitsd_runtime import VitsdError
from vitsd_runtime.classifier import softmax


def example(count, scale=1.0, classes=6, seed=0):
    """Logits whose probabilities are right at a temperature of ``scale``, and their labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, classes))
    draws = random.random((count, 1))
    labels = (softmax(logits).cumsum(axis=1) < draws).sum(axis=1)
    return (scale * logits).astype(np.float32), labels


@pytest.mark.parametrize("scale", [0.1, 0.8, 1.0, 3.0, 30.0])
def test_the_temperature_is_found_that_makes_the_probabilities_right(scale):
    logits, labels = example(20_000, scale)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(scale, rel=0.05)
    assert calibration(logits / temperature, labels)["ece"] < 0.015


def test_the_answer_has_the_right_probability_also_where_those_of_other_classes_have_not():
    # The second choice is never right: the log loss of all classes would flatten the probability of
    # the first, which is right for 80 %, to 67 %, to make room for the others.
    random = np.random.default_rng(0)
    logits = random.normal(0, 0.1, (5000, 50))
    logits[:, :2] += 4, 3
    labels = np.where(random.random(5000) < 0.8, 0, random.integers(2, 50, 5000))
    largest = softmax(logits / fit_temperature(logits, labels)).max(axis=1)
    assert largest.mean() == pytest.approx((labels == 0).mean(), abs=0.005)


@pytest.mark.parametrize("count", [FEWEST_IMAGES, 300])
def test_a_model_that_is_always_right_is_not_sure_of_everything(count):
    labels = np.arange(count) % 5
    logits = np.eye(5, dtype=np.float32)[labels]
    confidence = fit_confidence(logits, labels, 0.95)
    probability = softmax(logits / confidence.temperature).max()
    assert probability == pytest.approx((count + 1) / (count + 2), abs=1e-3)
    assert 0 < confidence.threshold < probability


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((50, 3)), np.zeros(50, int)),
        (np.eye(3)[np.zeros(50, int)], np.ones(50, int)),  # always wrong
        (1e30 * np.eye(3)[np.zeros(50, int)], np.zeros(50, int)),
        (1e-30 * np.eye(3)[np.zeros(50, int)], np.zeros(50, int)),
        (np.random.default_rng(0).normal(size=(50, 3)), np.zeros(50, int)),  # one class
        (np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 3),  # by chance
    ],
)
def test_whatever_the_logits_are_the_result_is_a_usable_one(logits, labels):
    with np.errstate(all="raise", under="ignore"):
        confidence = fit_confidence(logits.astype(np.float32), labels, 0.95)
    assert 0.01 <= confidence.temperature <= 100
    assert 0 <= confidence.threshold < 1


def test_too_few_images_give_none():
    logits, labels = example(FEWEST_IMAGES)
    assert fit_confidence(logits, labels, 0.95).images == FEWEST_IMAGES
    assert fit_confidence(logits[1:], labels[1:], 0.95) is None
    assert fit_confidence(logits[:0], labels[:0], 0.95) is None


@pytest.mark.parametrize("coverage", [0.01, 0.5, 0.95, 0.999, 1.0])
def test_the_threshold_leaves_as_many_known_as_asked_for(coverage):
    logits, labels = example(2000)
    confidence = fit_confidence(logits, labels, coverage)
    report = accuracy_report(logits, labels, "abcdef", confidence)
    assert report["known"] == pytest.approx(coverage, abs=0.002)
    assert report["known"] >= coverage
    assert confidence.coverage == coverage


def test_logits_that_are_not_finite_are_refused():
    logits, labels = example(100)
    logits[3, 1] = np.nan
    with pytest.raises(VitsdError, match="not finite"):
        fit_confidence(logits, labels, 0.95)


def test_a_report_is_of_calibrated_probabilities_and_shows_what_it_was_without():
    logits, labels = example(5000, 0.4)
    confidence = fit_confidence(logits, labels, 0.9)
    before = accuracy_report(logits, labels, "abcdef")
    after = accuracy_report(logits, labels, "abcdef", confidence)
    assert (before["top1"], before["top5"]) == (after["top1"], after["top5"])
    assert after["ece"] < 0.02 < 0.2 < before["ece"]
    assert after["ece_without_temperature"] == before["ece"]
    assert after["known_top1"] > after["top1"]
    assert (before["confidence"], before["known"]) == (None, 1.0)
    rows = after["by_coverage"]
    assert [round(row["known"], 2) for row in rows] == [1.0, 0.95, 0.9, 0.8, 0.7, 0.5]
    assert [row["top1"] for row in rows] == sorted(row["top1"] for row in rows)
