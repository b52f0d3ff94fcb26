"""Search the fastest quantisation that keeps a model's answers, on images that are neither trained nor tested on.

Every dense layer has a ladder of precisions. All start on the lowest step; how much each costs alone is measured, and the
costliest climb until the budget holds. The cost is the Kullback-Leibler divergence of the predicted probabilities from those
of the float model: accuracy moves in steps of whole images, too coarse to tell layers apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from vitsd.evaluation.metrics import paired_difference, top_k_hits
from vitsd_export.quantization import ranges as calibration
from vitsd_export.quantization.recipe import LayerChoice, QuantizationRecipe
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.signals import check_interrupted

AGREEMENT = {"dynamic": 0.98, "int8": 0.975, "int8-full": 0.95, "int4": 0.93}
"""Smallest agreement that a search settles for, by quantisation: somewhat above what the parity gate asks."""
LADDERS = {
    "dynamic": ("dynamic", "float"),
    "int8": ("static", "dynamic", "float"),
    "int4": ("int4", "dynamic", "float"),
}
"""Precisions of a dense layer by quantisation, from the fastest (or smallest) to the most exact."""
WEIGHT_METHODS = ("mse", "minmax")
METHODS = {"static": calibration.METHODS, "int4": WEIGHT_METHODS}
"""Ways to choose ranges, for the precisions that have a choice."""
ONNX_LADDERS = {"dynamic": ("dynamic", "float"), "int8": ("static", "float")}
SENSITIVITY_IMAGES = 256
"""Enough to rank layers; the budget itself is checked on all held-out images."""
RANGE_IMAGES = 512
"""To choose between ranges that differ little."""

Choices = Mapping[str, LayerChoice]
Run = Callable[[Choices, int], np.ndarray]
"""Logits of the model quantised in a way, for the first so many held-out images."""


@dataclass(frozen=True)
class Goal:
    """What a quantised model must keep on the held-out images."""

    max_drop: float
    """Largest loss of top-1 accuracy against the float model, as a fraction."""
    agreement: float
    """Smallest fraction of images with the float model's class."""


@dataclass(frozen=True)
class Score:
    """A quantised model against the float model."""

    images: int
    top1_change: tuple[float, float, float]
    """With its 95 % interval (paired)."""
    agreement: float
    divergence: float
    """Mean Kullback-Leibler divergence, in nats."""

    def meets(self, goal: Goal) -> bool:
        return (
            -self.top1_change[0] <= goal.max_drop + 1e-9 and self.agreement >= goal.agreement - 1e-9
        )

    def describe(self) -> str:
        change, low, high = (100 * value for value in self.top1_change)
        return (
            f"top-1 {change:+.2f} points (95 %: {low:+.2f} to {high:+.2f}), agreement {100 * self.agreement:.2f} % "
            f"on {self.images} held-out images"
        )


@dataclass(frozen=True)
class Found:
    """What the search found."""

    choices: dict[str, LayerChoice]
    score: Score
    divergence: dict[str, dict[str, float]]
    """By layer and method: of the model with this layer alone on the lowest step and all others on the next."""
    baseline: float
    """Of the model with all layers on the second step."""

    def added(self, layer: str) -> list[float]:
        """Divergence that ``layer`` alone adds on the lowest step, from best to worst ranges; empty if not measured.

        Below 0 where that step is nearer to the float model than the next one.
        """
        return sorted(value - self.baseline for value in self.divergence.get(layer, {}).values())

    def measured(self) -> dict:
        """For a recipe."""
        return {
            "images": self.score.images,
            "top1_change": self.score.top1_change,
            "agreement": self.score.agreement,
            "divergence": self.score.divergence,
            "divergence_alone": self.divergence,
            "divergence_baseline": self.baseline,
        }


class BudgetError(VitsdError):
    """No quantisation within the budget was found."""

    def __init__(self, quantization: str, goal: Goal, best: Score):
        super().__init__(
            f"No {quantization} model within the budget (top-1 at most -{100 * goal.max_drop:g} points, agreement at least "
            f"{100 * goal.agreement:g} %) was found; the best has {best.describe()}. Allow more with --max-drop, or choose "
            "another --quantize."
        )


def score(logits: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> Score:
    """Compare ``(n, classes)`` logits with those of the float model."""
    count = len(logits)
    labels, reference = labels[:count], reference[:count]
    ours, theirs = _log_softmax(logits), _log_softmax(reference)
    return Score(
        images=count,
        top1_change=paired_difference(
            top_k_hits(reference, labels, 1), top_k_hits(logits, labels, 1)
        ),
        agreement=float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        divergence=float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()),
    )


def replay(
    run: Run,
    recipe: QuantizationRecipe,
    layers: Sequence[str],
    labels: np.ndarray,
    reference: np.ndarray,
    goal: Goal,
) -> Found:
    """Take a recipe's choices instead of searching.

    Raises:
        UsageError: the recipe is not for these layers, or for other precisions than its quantisation has.
        BudgetError: its choices don't meet ``goal``.
    """
    choices = dict(recipe.layers)
    if list(choices) != list(layers):
        raise UsageError(
            "The recipe names other layers than the model has; leave --recipe out to search a new one."
        )
    for name, choice in choices.items():
        if not re.fullmatch(calibration.METHOD_PATTERN, choice.method):
            raise UsageError(f"The recipe has the unknown method {choice.method!r} for {name}.")
    found = score(run(choices, len(labels)), labels, reference)
    if not found.meets(goal):
        raise BudgetError(recipe.quantization, goal, found)
    return Found(choices, found, {}, 0.0)


def search(
    run: Run,
    layers: Mapping[str, int],
    quantization: str,
    ladder: Sequence[str],
    labels: np.ndarray,
    reference: np.ndarray,
    goal: Goal,
    report: Callable[[str], None],
) -> Found:
    """Find the lowest precisions that meet ``goal``.

    Args:
        run: runs a candidate.
        layers: names of the dense layers and how many weights each has.
        quantization: its name.
        ladder: precisions, one of :data:`LADDERS` or :data:`ONNX_LADDERS`.
        labels: of the held-out images.
        reference: the float model's logits for them.
        report: called with a line of text about each step.

    Raises:
        BudgetError: no layer can be quantised within the goal.
    """
    names, images = list(layers), len(labels)
    if quantization == "dynamic":  # nearly always good enough as it is
        found = score(run(dict.fromkeys(names, LayerChoice("dynamic")), images), labels, reference)
        report(f"all dynamic: {found.describe()}")
        if found.meets(goal):
            return Found(dict.fromkeys(names, LayerChoice("dynamic")), found, {}, 0.0)
    second = {name: LayerChoice(ladder[1]) for name in names}
    few = min(SENSITIVITY_IMAGES, images)
    baseline = (
        score(run(second, few), labels, reference).divergence if ladder[1] != "float" else 0.0
    )
    alone: dict[str, dict[str, float]] = {}
    for name in tqdm(names, "sensitivity", leave=False, disable=None):
        alone[name] = {}
        for method in METHODS.get(ladder[0], ("minmax",)):
            check_interrupted()
            candidate = {**second, name: LayerChoice(ladder[0], method)}
            alone[name][method] = score(run(candidate, few), labels, reference).divergence
    methods = {name: min(found, key=found.__getitem__) for name, found in alone.items()}

    def cost(name):
        """What the layer loses alone; where weights are cut for size, per weight."""
        lost = max(alone[name][methods[name]] - baseline, 0.0)
        return lost / layers[name] if quantization == "int4" else lost

    order = sorted(names, key=cost, reverse=True)

    def choices(climbed: int) -> dict[str, LayerChoice]:
        """After so many single steps: everyone's first before anyone's second."""
        result = {}
        for rank, name in enumerate(order):
            step = ladder[(climbed + len(order) - 1 - rank) // len(order)]
            result[name] = LayerChoice(step, methods[name] if step in METHODS else "minmax")
        return {name: result[name] for name in names}

    def attempt(climbed: int) -> tuple[dict[str, LayerChoice], Score]:
        check_interrupted()
        chosen = choices(climbed)
        found = score(run(chosen, images), labels, reference)
        report(f"{_summary(chosen, ladder)}: {found.describe()}")
        return chosen, found

    # With more layers climbed the model only gets better, but for noise: bisect, then keep what was really measured.
    low, high = 0, (len(ladder) - 1) * len(names) - 1
    best = attempt(low)
    if not best[1].meets(goal):
        best = attempt(high)
        if not best[1].meets(goal):
            raise BudgetError(quantization, goal, best[1])
        # First see whether the second step suffices for all: from there on, files are slower.
        middle = len(names)
        if middle < high and (tried := attempt(middle))[1].meets(goal):
            best, high = tried, middle
        elif middle < high:
            low = middle
        while high - low > 1:
            middle = (low + high) // 2
            tried = attempt(middle)
            if tried[1].meets(goal):
                best, high = tried, middle
            else:
                low = middle
    return Found(*best, alone, baseline)


def search_methods(
    run: Run,
    groups: Mapping[str, Sequence[str]],
    labels: np.ndarray,
    reference: np.ndarray,
    goal: Goal,
    report: Callable[[str], None],
) -> Found:
    """For integer-only models, where every tensor is int8: choose how the ranges of each group of tensors are found.

    First one way for all that know it, then group by group whether another is better.

    Args:
        groups: names, and the ways to try for each.

    Raises:
        BudgetError: the best does not meet ``goal``.
    """

    def divergence(chosen):
        check_interrupted()
        return score(run(chosen, min(RANGE_IMAGES, len(labels))), labels, reference).divergence

    def uniform(method):
        return {
            name: LayerChoice("static", method if method in methods else methods[0])
            for name, methods in groups.items()
        }

    starts = {method: divergence(uniform(method)) for method in calibration.METHODS}
    for method, value in starts.items():
        report(f"ranges by {method}: divergence {value:.5f}")
    start = min(starts, key=starts.__getitem__)
    chosen, lowest = uniform(start), starts[start]
    alone: dict[str, dict[str, float]] = {}
    for group in tqdm(
        [*groups, *groups], "ranges", leave=False, disable=None
    ):  # twice, because the groups depend on each other
        alone[group] = {}
        for method in groups[group]:
            candidate = {**chosen, group: LayerChoice("static", method)}
            alone[group][method] = lowest if candidate == chosen else divergence(candidate)
        best = min(alone[group], key=alone[group].__getitem__)
        chosen[group], lowest = LayerChoice("static", best), alone[group][best]
    found = score(run(chosen, len(labels)), labels, reference)
    report(f"ranges chosen group by group: divergence {found.divergence:.5f}, {found.describe()}")
    if not found.meets(goal):
        raise BudgetError("int8-full", goal, found)
    return Found(chosen, found, alone, starts[start])


def describe_choices(found: Found) -> list[list[str]]:
    """Rows of a table, see :data:`CHOICE_HEADERS`."""
    rows = []
    for name, choice in found.choices.items():
        added = found.added(name)
        method = choice.method if choice.precision in METHODS else ""
        rows.append(
            [
                name,
                choice.precision,
                method,
                *(f"{added[i]:+.1e}" if added else "" for i in (0, -1)),
            ]
        )
    return rows


CHOICE_HEADERS = ["layer", "precision", "ranges", "added divergence, best", "worst ranges"]
"""Name, what was chosen, and :meth:`Found.added` by the best and worst ranges."""


def _summary(chosen: Choices, ladder: Sequence[str]) -> str:
    counts = {step: sum(c.precision == step for c in chosen.values()) for step in ladder}
    return ", ".join(f"{count} {step}" for step, count in counts.items() if count)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
