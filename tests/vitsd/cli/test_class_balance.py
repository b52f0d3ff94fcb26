"""What is said of classes after training and evaluation."""

import numpy as np

from vitsd.cli.class_balance import balance_lines
from vitsd.evaluation.metrics import accuracy_report


def lines(predicted, labels, names):
    logits = np.eye(len(names))[np.asarray(predicted)]
    return list(balance_lines(accuracy_report(logits, np.asarray(labels), names)))


def test_classes_that_are_never_answered_are_named():
    assert lines([0] * 100, [0] * 96 + [1, 1, 2, 2], ("cat", "dog", "owl")) == [
        "Balanced accuracy: 33.33% (mean of the classes' recall)",
        "Never answered: dog, owl (2 of 3 classes)",
    ]


def test_nothing_is_said_where_the_accuracy_says_it_all():
    labels = np.arange(100) % 2
    assert lines(labels, labels, ("cat", "dog")) == []
    one_wrong_of_each = np.where(np.arange(100) < 2, 1 - labels, labels)
    assert lines(one_wrong_of_each, labels, ("cat", "dog")) == []


def test_the_lowest_recalls_are_named_and_chance_is_not():
    labels = np.repeat([0, 1, 2], 100)
    predicted = labels.copy()
    predicted[:3] = 1  # 97 % of class 0
    predicted[100:160] = 2  # 40 % of class 1
    assert lines(predicted, labels, ("cat", "dog", "owl")) == [
        "Lowest recall: dog 40.00% (1 of 3 classes)",
        "Taken for another: dog for owl 60.00%",
        "Most images of dog are taken for owl: look whether they are labeled right.",
    ]


def test_classes_that_are_taken_for_another_are_named_the_worst_first():
    labels = np.repeat([0, 1, 2], 10)
    predicted = labels.copy()
    predicted[:3] = 1
    predicted[10:14] = 2
    predicted[20:22] = 0  # too few to be named
    names = ("cat", "\x1b[2Jdog", "owl")
    expected = r"Taken for another: \x1b[2Jdog for owl 40.00%, cat for \x1b[2Jdog 30.00%"
    assert lines(predicted, labels, names)[-1] == expected


def test_at_most_five_classes_are_named_and_none_of_them_raw():
    names = ("\x1b[2Jcat", *(f"class{i}" for i in range(20)))
    labels = np.arange(21).repeat(5)
    text = "\n".join(lines(np.zeros(105, int), labels, names[1:] + names[:1]))
    assert "class1, class2, class3, class4, class5 ... (20 of 21 classes)" in text
    text = "\n".join(lines(np.ones(105, int), labels, names))
    assert "\x1b" not in text
    assert r"\x1b[2Jcat" in text


def test_results_of_an_earlier_version_say_nothing():
    assert list(balance_lines({"top1": 0.5, "per_class": [], "classes": 2})) == []
