"""The gate's figures of classes: what quantization takes from small ones."""

import dataclasses
import json

import numpy as np
import pytest

from vitsd_export.gate import Comparison, balance_notes, measure_parity
from vitsd_runtime.spec import ExportInfo, ParityFigures

LABELS = np.repeat([0, 1, 2], [480, 12, 4])


def logits_of(predicted):
    return 4 * np.eye(3, dtype=np.float32)[predicted]


def parity(spec, predicted, quantization="int8", labels=LABELS, reference=None):
    exported = spec.replace(export=ExportInfo("tflite", quantization))
    reference = logits_of(labels if reference is None else reference)
    return measure_parity(logits_of(predicted), labels, reference, exported, "cats")


def note_of(figures):
    comparison = Comparison(**vars(figures), path="a.tflite", quantization="int8", bytes=1)
    return list(balance_notes([comparison]))


@pytest.mark.parametrize("quantization", ["dynamic", "int8", "int8-full"])
def test_a_small_class_that_is_lost_fails_though_top1_holds(spec, quantization):
    predicted = np.where(LABELS == 2, 0, LABELS)
    figures = parity(spec, predicted, quantization)
    assert figures.top1 > 0.99
    assert figures.balanced_accuracy == pytest.approx(2 / 3)
    assert figures.balanced_change == pytest.approx(-1 / 3)
    assert figures.lost_recall == {"owl": (0.0, 1.0)}
    assert figures.failures == ("recall of owl 100 -> 0 % of 4 images",)
    assert note_of(figures) == [
        "a.tflite: balanced accuracy 66.67 % (-33.33); recall of owl 100 -> 0 %"
    ]


@pytest.mark.parametrize(("images", "lost"), [(2, 2), (4, 3), (12, 4), (480, 33)])
def test_so_many_of_so_many_images_are_not_chance(spec, images, lost):
    labels = np.repeat([0, 1, 2], [480, images, 480])
    for less in (0, 1):
        predicted = labels.copy()
        predicted[480 : 480 + lost - less] = 2
        failures = parity(spec, predicted, labels=labels).failures
        assert len([f for f in failures if f.startswith("recall of dog")]) == 1 - less


def test_one_image_of_a_small_class_is_chance(spec):
    predicted = LABELS.copy()
    predicted[-1] = 0  # a quarter of class 2
    figures = parity(spec, predicted)
    assert figures.passed
    assert figures.lost_recall == {"owl": (0.75, 1.0)}
    assert "recall of owl 100 -> 75 %" in note_of(figures)[0]


def test_equal_answers_lose_nothing(spec):
    figures = parity(spec, LABELS)
    assert (figures.passed, figures.lost_recall, figures.balanced_change) == (True, {}, 0.0)
    assert note_of(figures) == []


def test_what_the_reference_never_knew_is_not_lost(spec):
    wrong = np.where(LABELS == 2, 0, LABELS)
    figures = parity(spec, wrong, reference=wrong)
    assert figures.passed
    assert figures.balanced_accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(("quantization", "tolerated"), [("int8", 0.04), ("int4", 0.10)])
def test_changes_within_the_tolerance_seldom_fail_for_a_class(spec, quantization, tolerated):
    random = np.random.default_rng(0)
    failed = 0
    for _ in range(500):
        changed = random.random(len(LABELS)) < tolerated
        figures = parity(spec, np.where(changed, (LABELS + 1) % 3, LABELS), quantization)
        failed += any(failure.startswith("recall of") for failure in figures.failures)
    assert failed <= 10  # at most one of a hundred is expected


def test_many_images_are_no_trouble(spec):
    labels = np.arange(90_000) % 3
    predicted = labels.copy()
    predicted[labels == 1] = np.where(np.arange(30_000) < 9_000, 2, 1)
    (failure,) = (
        f for f in parity(spec, predicted, labels=labels).failures if f.startswith("recall")
    )
    assert failure == "recall of dog 100 -> 70 % of 30000 images"


def test_figures_travel_and_those_of_earlier_versions_still_load(spec):
    figures = parity(spec, np.where(LABELS == 2, 0, LABELS))
    info = ExportInfo("tflite", "int8", parity=figures)
    text = spec.replace(export=info).to_json()
    loaded = type(spec).from_json(text)
    assert loaded.export.parity.balanced_accuracy == figures.balanced_accuracy
    assert loaded.export.parity.lost_recall == {"owl": [0.0, 1.0]}
    stored = json.loads(text)
    for name in ("balanced_accuracy", "balanced_change", "lost_recall"):
        del stored["export"]["parity"][name]
    earlier = type(spec).from_json(json.dumps(stored)).export.parity
    assert earlier.balanced_accuracy is None
    assert earlier.top1 == figures.top1


def test_figures_of_other_types_are_refused(spec):
    good = dataclasses.asdict(parity(spec, LABELS))
    for name, value in (("balanced_accuracy", "high"), ("lost_recall", ["owl"])):
        with pytest.raises(ValueError, match=f"parity.{name}"):
            ParityFigures(**{**good, name: value})


def test_a_long_name_leaves_the_figures_whole(spec):
    named = spec.replace(class_names=("cat", "dog", "o" * 60))
    (failure,) = parity(named, np.where(LABELS == 2, 0, LABELS)).failures
    assert failure.endswith("... 100 -> 0 % of 4 images")
