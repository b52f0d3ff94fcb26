"""The search, on models whose layers' costs are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitsd_export.quantization.recipe import LayerChoice
from vitsd_export.quantization.search import LADDERS, BudgetError, Goal, score, search

CLASSES, IMAGES = 5, 400


def stand_in(costs):
    """A model that errs more the more of its costly layers are on a low step: noise added to the true logits."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, IMAGES)
    reference = random.normal(size=(IMAGES, CLASSES)) + 2 * np.eye(CLASSES)[labels]
    noise = {name: random.normal(size=reference.shape) for name in costs}

    def run(choices, count):
        weight = {"static": 1.0, "int4": 1.0, "dynamic": 0.005, "float": 0.0}
        bad = {"minmax": 1.5, "percentile": 1.2, "mse": 1.0}
        total = sum(
            costs[n] * weight[c.precision] * bad[c.method] * noise[n] for n, c in choices.items()
        )
        return (reference + total)[:count]

    return run, labels, reference


@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.5, 3.0]), min_size=2, max_size=9))
def test_what_is_found_keeps_the_budget_and_quantises_the_cheap_layers(costs):
    costs = {f"layer_{i}": cost for i, cost in enumerate(costs)}
    run, labels, reference = stand_in(costs)
    goal = Goal(0.005, 0.98)
    found = search(
        run,
        dict.fromkeys(costs, 10),
        "int8",
        LADDERS["int8"],
        labels,
        reference,
        goal,
        lambda text: None,
    )
    assert score(run(found.choices, IMAGES), labels, reference).meets(goal)
    assert list(found.choices) == list(costs)
    static = {costs[name] for name, choice in found.choices.items() if choice.precision == "static"}
    climbed = {
        costs[name] for name, choice in found.choices.items() if choice.precision != "static"
    }
    assert not climbed or not static or max(static) <= min(climbed) or min(climbed) >= 0.01
    assert all(cost < 3.0 for cost in static)
    for name, choice in found.choices.items():
        if choice.precision == "static" and costs[name] >= 0.01:
            assert choice.method == "mse"


def test_layers_of_4_bits_climb_by_what_they_save():
    run, labels, reference = stand_in({"large": 0.4, "small": 0.4})
    one, both = (
        score(
            run({"large": LayerChoice("int4", "mse"), "small": LayerChoice(small, "mse")}, IMAGES),
            labels,
            reference,
        )
        for small in ("dynamic", "int4")
    )
    goal = Goal(1.0, (one.agreement + both.agreement) / 2)
    assert not both.meets(goal)
    sizes = {"large": 1000, "small": 1}
    found = search(run, sizes, "int4", LADDERS["int4"], labels, reference, goal, lambda text: None)
    assert [found.choices[name].precision for name in sizes] == ["int4", "dynamic"]


def test_nothing_within_the_budget():
    run, labels, reference = stand_in({"a": 500.0, "b": 500.0})
    goal = Goal(0.0, 1.0)
    with pytest.raises(BudgetError, match=r"the best has top-1 -.*Allow more with --max-drop"):
        search(
            run,
            {"a": 1, "b": 1},
            "int8",
            LADDERS["int8"],
            labels,
            reference,
            goal,
            lambda text: None,
        )


def test_score_of_a_worked_example():
    reference = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    found = score(logits, np.array([0, 1, 0, 0]), reference)
    assert found.agreement == 0.75
    assert found.top1_change[0] == -0.25
    p = np.exp(2) / (1 + np.exp(2))
    assert found.divergence == pytest.approx((p * 2 - (1 - p) * 2) / 4)
