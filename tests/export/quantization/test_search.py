"""The search, on models whose layers' costs are known."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitsd_export.quantization import search as search_module
from vitsd_export.quantization.ranges import MINMAX, MSE
from vitsd_export.quantization.recipe import LayerChoice
from vitsd_export.quantization.schemes import SCHEMES
from vitsd_export.quantization.search import (
    AccuracyBudget,
    BudgetError,
    Evaluator,
    PrecisionSearch,
    quantization_error,
)
from vitsd_runtime.errors import VitsdError

CLASSES, IMAGES = 5, 400


class StandIn:
    """A model that errs more the more of its costly layers are on a low step.

    Noise is added to the true logits.
    """

    def __init__(self, costs):
        random = np.random.default_rng(0)
        self.costs = costs
        self.labels = random.integers(0, CLASSES, IMAGES)
        self.reference = random.normal(size=(IMAGES, CLASSES)) + 2 * np.eye(CLASSES)[self.labels]
        self.noise = {name: random.normal(size=self.reference.shape) for name in costs}

    def build(self, choices):
        return b""

    def logits(self, choices, count, num_threads=1):
        weight = {"static": 1.0, "int4": 1.0, "dynamic": 0.005, "float": 0.0}
        bad = {"minmax": 1.5, "percentile": 1.2, "mse": 1.0}
        total = sum(
            self.costs[name] * weight[c.precision] * bad[str(c.method)] * self.noise[name]
            for name, c in choices.items()
        )
        return (self.reference + total)[:count]

    def error(self, choices):
        return quantization_error(self.logits(choices, IMAGES), self.labels, self.reference)

    def search(self, quantization, budget, sizes=None):
        scheme = SCHEMES[quantization]
        evaluator = Evaluator(self, self.labels, self.reference, budget)
        layers = sizes or dict.fromkeys(self.costs, 10)
        return PrecisionSearch(evaluator, layers, scheme, scheme.ladders["tflite"])


@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.5, 3.0]), min_size=2, max_size=9))
def test_what_is_found_keeps_the_budget_and_quantizes_the_cheap_layers(costs):
    costs = {f"layer_{i}": cost for i, cost in enumerate(costs)}
    model = StandIn(costs)
    budget = AccuracyBudget(0.5, 0.98)
    found = model.search("int8", budget).run()
    assert model.error(found.choices).meets(budget)
    assert list(found.choices) == list(costs)
    static = {costs[name] for name, choice in found.choices.items() if choice.precision == "static"}
    promoted = {
        costs[name] for name, choice in found.choices.items() if choice.precision != "static"
    }
    assert not promoted or not static or max(static) <= min(promoted) or min(promoted) >= 0.01
    assert all(cost < 3.0 for cost in static)
    for name, choice in found.choices.items():
        if choice.precision == "static" and costs[name] >= 0.01:
            assert choice.method == MSE


def test_the_steps_of_a_search():
    model = StandIn({"cheap": 0.01, "costly": 1.0, "free": 0.0})
    search = model.search("int8", AccuracyBudget(0.5, 0.98))
    assert 0 < search.on_second["costly"] < min(search.sensitivity["costly"].values())
    assert search.methods["costly"] == MSE
    assert search.order == ["costly", "cheap", "free"]
    precisions = [
        [choice.precision for choice in search.choices_at(promotions).values()]
        for promotions in range(6)
    ]
    assert precisions == [
        ["static", "static", "static"],
        ["static", "dynamic", "static"],
        ["dynamic", "dynamic", "static"],
        ["dynamic", "dynamic", "static"],  # where "dynamic" costs as much, it is no gain
        ["dynamic", "float", "static"],
        ["float", "float", "static"],
    ]
    found = search.run()
    assert found.choices == search.choices_at(1)
    assert (found.sensitivity, found.baseline) == (search.sensitivity, 0.0)


def test_a_step_that_is_worse_than_the_one_below_it_is_skipped():
    model = StandIn({"convolution": 0.4, "dense": 0.3})
    logits = model.logits

    def dynamic_is_worse(choices, count, num_threads=1):
        worse = {
            name: LayerChoice("static", MSE) if (name, c.precision) == convolution else c
            for name, c in choices.items()
        }
        scale = 3.0 if worse != dict(choices) else 1.0
        return model.reference[:count] + scale * (logits(worse, count) - model.reference[:count])

    convolution = ("convolution", "dynamic")
    model.logits = dynamic_is_worse
    search = model.search("int8", AccuracyBudget(0.5, 0.98))
    assert search.on_second["convolution"] > min(search.sensitivity["convolution"].values())
    precisions = [
        tuple(choice.precision for choice in search.choices_at(promotions).values())
        for promotions in range(4)
    ]
    assert precisions == [
        ("static", "static"),
        ("static", "static"),
        ("static", "dynamic"),
        ("float", "dynamic"),
    ]


def test_the_result_is_the_same_on_any_number_of_cores(monkeypatch):
    model = StandIn({"cheap": 0.01, "costly": 1.0, "free": 0.0})
    found = []
    for cores in (1, 2, 64):
        monkeypatch.setattr(search_module, "usable_cores", lambda cores=cores: cores)
        found.append(model.search("int8", AccuracyBudget(0.5, 0.98)).run())
    assert found[0] == found[1] == found[2]


def test_candidates_are_ranked_by_one_thread_each_and_answered_in_order():
    model, threads = StandIn({"a": 1.0}), []

    def logits(choices, count, num_threads):
        threads.append(num_threads)
        if choices["a"].precision == "static":
            time.sleep(0.02)  # is ready last
        return StandIn.logits(model, choices, count)

    model.logits = logits
    evaluator = Evaluator(model, model.labels, model.reference, AccuracyBudget(0.5, 0.98))
    steps = ("static", "float", "dynamic", "float")
    found = list(evaluator.divergences([{"a": LayerChoice(step)} for step in steps], 100))
    assert found[0] > found[2] > found[1] == found[3] == 0
    assert set(threads) == {1}


def test_a_failure_ends_a_search_without_trying_what_waits():
    model, tried = StandIn({"a": 1.0}), []

    def logits(choices, count, num_threads):
        tried.append(choices)
        time.sleep(0.002)
        raise VitsdError("no space")

    model.logits = logits
    evaluator = Evaluator(model, model.labels, model.reference, AccuracyBudget(0.5, 0.98))
    with pytest.raises(VitsdError, match="no space"):
        list(evaluator.divergences([{"a": LayerChoice("float")}] * 1000, 100))
    assert len(tried) < 100


def test_dynamic_layers_are_measured_only_where_they_are_not_good_enough_as_they_are():
    good = StandIn({"a": 0.1, "b": 0.1}).search("dynamic", AccuracyBudget(0.5, 0.98)).run()
    assert good.sensitivity == {}
    bad = StandIn({"a": 300.0, "b": 0.1}).search("dynamic", AccuracyBudget(0.5, 0.98)).run()
    assert [choice.precision for choice in bad.choices.values()] == ["float", "dynamic"]
    assert set(bad.sensitivity) == {"a", "b"}


def test_layers_of_4_bits_are_promoted_by_what_they_save():
    model = StandIn({"large": 0.4, "small": 0.4})
    one, both = (
        model.error(
            {
                "large": LayerChoice("int4", MSE),
                "small": LayerChoice(small, MSE if small == "int4" else MINMAX),
            }
        )
        for small in ("dynamic", "int4")
    )
    budget = AccuracyBudget(100.0, (one.agreement + both.agreement) / 2)
    assert not both.meets(budget)
    sizes = {"large": 1000, "small": 1}
    found = model.search("int4", budget, sizes).run()
    assert [found.choices[name].precision for name in sizes] == ["int4", "dynamic"]


@pytest.mark.parametrize(
    ("images", "lost", "max_drop", "met"),
    [
        (100, 1, 0.5, True),
        (100, 2, 0.5, False),
        (100, 1, 0.0, False),
        (1000, 5, 0.5, True),
        (1000, 6, 0.5, False),
    ],
)
def test_one_answer_that_flips_is_within_every_budget_but_none_at_all(images, lost, max_drop, met):
    reference = np.tile([1.0, 0.0], (images, 1))
    logits = reference.copy()
    logits[:lost] = [0.0, 1.0]
    error = quantization_error(logits, np.zeros(images, int), reference)
    assert error.meets(AccuracyBudget(max_drop, 0.95)) == met


def test_nothing_within_the_budget():
    search = StandIn({"a": 500.0, "b": 500.0}).search("int8", AccuracyBudget(0.0, 1.0))
    with pytest.raises(BudgetError, match=r"the best has top-1 -.*Allow more with `max_drop`"):
        search.run()


def test_score_of_a_worked_example():
    reference = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    found = quantization_error(logits, np.array([0, 1, 0, 0]), reference)
    assert found.agreement == 0.75
    assert found.top1_change[0] == -0.25
    p = np.exp(2) / (1 + np.exp(2))
    assert found.divergence == pytest.approx((p * 2 - (1 - p) * 2) / 4)
