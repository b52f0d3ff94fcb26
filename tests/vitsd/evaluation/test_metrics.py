import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitsd.evaluation.metrics import (
    accuracy_report,
    agreement,
    calibration,
    confusion_matrix,
    paired_difference,
    top_k_hits,
)
from vitsd_runtime import VitsdError
from vitsd_runtime.accuracy import balanced_accuracy, wilson_interval


def test_report_of_a_worked_example():
    logits = np.array([[3, 2, 1], [3, 2, 1], [1, 2, 3], [0, 5, 4]], float)
    labels = np.array([0, 1, 2, 2])
    report = accuracy_report(logits, labels, ("a", "b", "c"))
    assert report["top1"] == 0.5
    assert report["top5"] == 1.0
    assert report["balanced_accuracy"] == 0.5
    assert report["never_predicted"] == []
    by_name = {row["class"]: row for row in report["per_class"]}
    assert (by_name["a"]["recall"], by_name["a"]["precision"]) == (1.0, 0.5)
    assert (by_name["b"]["recall"], by_name["b"]["precision"]) == (0.0, 0.0)
    assert (by_name["c"]["recall"], by_name["c"]["precision"]) == (0.5, 1.0)
    np.testing.assert_array_equal(
        confusion_matrix(logits.argmax(1), labels, 3), [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    )


def test_one_answer_for_all_images_is_worth_one_class():
    labels = np.repeat([0, 1, 3], [96, 2, 2])  # no image of class 2
    logits = np.tile([4.0, 3.0, 2.0, 1.0], (100, 1))
    report = accuracy_report(logits, labels, ("cat", "dog", "fox", "owl"))
    assert report["top1"] == 0.96
    assert report["balanced_accuracy"] == pytest.approx(1 / 3)
    assert report["never_predicted"] == ["dog", "owl"]
    assert [row["class"] for row in report["per_class"]] == ["cat", "dog", "owl"]
    json.dumps(report, allow_nan=False)


@given(st.integers(0, 2**32 - 1))
def test_balanced_accuracy_does_not_depend_on_how_many_images_a_class_has(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, 40)
    hits = random.random(40) < 0.5
    recalls = [hits[labels == c].mean() for c in np.unique(labels)]
    assert balanced_accuracy(hits, labels) == pytest.approx(np.mean(recalls))
    of_zero = np.flatnonzero(labels == labels[0])
    more = np.concatenate([np.arange(40), *[of_zero] * 9])
    assert balanced_accuracy(hits[more], labels[more]) == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_no_hits(value):
    logits = np.full((4, 3), value)
    with pytest.raises(VitsdError, match="not finite"):
        accuracy_report(logits, np.zeros(4, int), ("a", "b", "c"))


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_top_k_equals_sorting(seed, k):
    random = np.random.default_rng(seed)
    logits = random.integers(0, 4, (20, 8)).astype(float)  # with ties
    labels = random.integers(0, 8, 20)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(
        top_k_hits(logits, labels, k), (order == labels[:, None]).any(axis=1)
    )


def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    single = paired = 0
    for _ in range(1000):
        a = random.random(300) < 0.6
        b = np.where(random.random(300) < 0.1, random.random(300) < 0.6, a)
        low, high = wilson_interval(int(a.sum()), 300)
        single += low <= 0.6 <= high
        _, low, high = paired_difference(a, b)
        paired += low <= 0 <= high
    assert 930 <= single <= 975
    assert 930 <= paired <= 985


def test_an_interval_of_perfect_answers_stays_inside_0_and_1():
    low, high = wilson_interval(10, 10)
    assert 0.6 < low < high <= 1
    assert paired_difference(np.ones(10, bool), np.ones(10, bool))[0] == 0


def test_calibration_is_zero_where_probabilities_are_true_and_grows_with_boasting():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (40_000, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = random.random((len(logits), 1))
    labels = (probabilities.cumsum(axis=1) > drawn).argmax(axis=1)
    assert calibration(logits, labels)["ece"] < 0.01
    assert calibration(3 * logits, labels)["ece"] > 0.05
    rows = calibration(logits, labels)["reliability"]
    assert sum(row["images"] for row in rows) == len(labels)


def test_agreement_is_of_the_predicted_classes():
    reference = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    assert agreement(reference, reference) == 1.0
    assert agreement(10 * reference + 5, reference) == 1.0
    assert agreement(np.array([[0.0, 1.0], *reference[1:]]), reference) == 0.75
    assert isinstance(agreement(reference, reference), float)


def test_calibration_of_a_case_by_hand():
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    found = calibration(logits, np.array([0, 1, 1, 1]), bins=10)
    # 0.9 twice, half of them right; 0.8 and 0.6 once each, both right
    assert found["ece"] == pytest.approx((2 * 0.4 + 0.2 + 0.4) / 4)
