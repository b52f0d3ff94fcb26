"""Search for the fastest quantization that keeps a model's answers.

It is judged on images that are neither trained nor tested on. Every dense layer has a ladder of
precisions. All start on the lowest step; how much each costs alone is measured, and the costliest
are promoted until the budget holds. The cost is the Kullback-Leibler divergence of the predicted
probabilities from those of the float model: accuracy moves in steps of whole images, too coarse to
tell layers apart.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from vitsd.evaluation.metrics import agreement, paired_difference, top_k_hits
from vitsd_export.quantization.ranges import (
    MINMAX,
    USUAL_METHODS,
    RangeMethod,
)
from vitsd_export.quantization.recipe import Choices, LayerChoice, QuantizationRecipe
from vitsd_export.quantization.schemes import RANGE_METHODS, Ladder, Precision, Scheme
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.system.signals import check_interrupted
from vitsd_runtime.types import AnyArray, Float32Array, FloatArray, Quantization

_log = logging.getLogger(__name__)

SENSITIVITY_IMAGES = 256
"""Enough to rank layers; the budget itself is checked on all held-out images."""
RANGE_IMAGES = 512
"""To choose between ranges that differ little."""
_MOST_WORKERS = 4
"""Candidates at once. They are built one after the other, so more would only wait."""


class Candidate(Protocol):
    """A model that can be quantized in many ways, as a search tries them."""

    def build(self, choices: Choices) -> bytes:
        """The file quantized as chosen."""

    def logits(self, choices: Choices, count: int, num_threads: int) -> Float32Array:
        """Logits ``(count, classes)`` of that file for the first held-out images.

        May be called from several threads at once.
        """


@dataclass(frozen=True)
class AccuracyBudget:
    """What a quantized model must keep on the held-out images."""

    max_drop: float
    """Largest loss of top-1 accuracy against the float model, in points. Where a single image is
    more than that, one image may be lost: an answer that flips by chance is no reason to refuse."""
    agreement: float
    """Smallest fraction of images with the float model's class."""


@dataclass(frozen=True)
class QuantizationLoss:
    """How far a quantized model is from the float model."""

    images: int
    top1_change: tuple[float, float, float]
    """As a fraction, with its 95 % interval (paired)."""
    agreement: float
    divergence: float
    """Mean Kullback-Leibler divergence, in nats."""

    def meets(self, budget: AccuracyBudget) -> bool:
        """Whether it is within the budget."""
        drop, allowed = -self.top1_change[0], budget.max_drop / 100
        if allowed > 0:
            allowed = max(allowed, 1 / self.images)
        return drop <= allowed + 1e-9 and self.agreement >= budget.agreement - 1e-9

    def describe(self) -> str:
        """For people."""
        change, low, high = (100 * value for value in self.top1_change)
        return (
            f"top-1 {change:+.2f} points (95 %: {low:+.2f} to {high:+.2f}), agreement "
            f"{100 * self.agreement:.2f} % on {self.images} held-out images"
        )


@dataclass(frozen=True)
class SearchResult:
    """What a search has chosen, and what it measured."""

    choices: dict[str, LayerChoice]
    error: QuantizationLoss
    sensitivity: dict[str, dict[RangeMethod, float]]
    """Divergence by layer and method: of the model with this layer alone on the lowest step and
    all others in float. Empty if nothing had to be measured."""
    baseline: float
    """Divergence of the model that the others were left in: 0 if that is the float model."""

    def added(self, layer: str) -> list[float]:
        """Divergence that ``layer`` alone adds on the lowest step, from best to worst ranges.

        Empty if not measured.
        """
        values = self.sensitivity.get(layer, {}).values()
        return sorted(value - self.baseline for value in values)

    def measured(self) -> dict[str, Any]:
        """For a recipe; JSON-serializable."""
        return {
            "images": self.error.images,
            "top1_change": self.error.top1_change,
            "agreement": self.error.agreement,
            "divergence": self.error.divergence,
            "divergence_alone": {
                name: {str(method): value for method, value in values.items()}
                for name, values in self.sensitivity.items()
            },
            "divergence_baseline": self.baseline,
        }


class BudgetError(VitsdError):
    """No quantization within the budget was found."""

    def __init__(
        self, quantization: Quantization, budget: AccuracyBudget, best: QuantizationLoss
    ) -> None:
        super().__init__(
            f"No {quantization} model within the budget (top-1 at most -{budget.max_drop:g} "
            f"points, agreement at least {100 * budget.agreement:g} %) was found; the best has "
            f"{best.describe()}. Allow more with `max_drop`, or choose another `quantization`."
        )


def quantization_error(logits: AnyArray, labels: AnyArray, reference: AnyArray) -> QuantizationLoss:
    """Compare logits with those of the float model.

    Args:
        logits: ``(n, classes)``, of the first n images.
        labels: ``(m,)``, ``m >= n``.
        reference: ``(m, classes)``, the float model's.
    """
    count = len(logits)
    labels, reference = labels[:count], reference[:count]
    ours, theirs = _log_softmax(logits), _log_softmax(reference)
    return QuantizationLoss(
        images=count,
        top1_change=paired_difference(
            top_k_hits(reference, labels, 1), top_k_hits(logits, labels, 1)
        ),
        agreement=agreement(logits, reference),
        divergence=float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()),
    )


class Evaluator:
    """Measures candidates against the float model on held-out images.

    Args:
        candidate: what is quantized.
        labels: ``(n,)``, of the held-out images.
        reference: float32 ``(n, classes)``, the float model's logits for them.
        budget: what a quantized model must keep.
    """

    def __init__(
        self,
        candidate: Candidate,
        labels: AnyArray,
        reference: AnyArray,
        budget: AccuracyBudget,
    ) -> None:
        self.budget = budget
        self._candidate, self._labels, self._reference = candidate, labels, reference

    def error(self, choices: Choices) -> QuantizationLoss:
        """On all held-out images."""
        return self._error(choices, len(self._labels), usable_cores())

    def divergences(self, candidates: Sequence[Choices], images: int) -> Iterator[float]:
        """On at most so many images, in the order of the candidates.

        Several are measured at once, each by one thread: the results are the same on any number
        of cores.
        """
        count = min(images, len(self._labels))

        def divergence(choices: Choices) -> float:
            return self._error(choices, count, num_threads=1).divergence

        pool = ThreadPoolExecutor(min(usable_cores(), _MOST_WORKERS))
        try:
            yield from pool.map(divergence, candidates)
        finally:
            pool.shutdown(cancel_futures=True)

    def _error(self, choices: Choices, count: int, num_threads: int) -> QuantizationLoss:
        check_interrupted()
        logits = self._candidate.logits(choices, count, num_threads)
        return quantization_error(logits, self._labels, self._reference)


def replay(evaluator: Evaluator, recipe: QuantizationRecipe, names: Sequence[str]) -> SearchResult:
    """Take a recipe's choices instead of searching.

    Args:
        evaluator: measures them.
        recipe: the choices.
        names: of the dense layers, or of the groups of tensors.

    Raises:
        UsageError: the recipe is not for these names.
        BudgetError: its choices don't meet the budget.
    """
    choices = dict(recipe.layers)
    if list(choices) != list(names):
        raise UsageError(
            "The recipe names other layers than the model has; leave `recipe` out to search a new "
            "one."
        )
    error = evaluator.error(choices)
    if not error.meets(evaluator.budget):
        raise BudgetError(recipe.quantization, evaluator.budget, error)
    return SearchResult(choices, error, {}, 0.0)


class PrecisionSearch:
    """Finds the lowest precisions that meet the budget.

    What it rests on is measured when it is asked for: :attr:`sensitivity`, :attr:`on_second` and,
    from these, :attr:`order` and :attr:`methods`. They give the candidates (:meth:`choices_at`),
    among which :meth:`find_fewest_promotions` looks.

    Args:
        evaluator: measures candidates.
        layers: names of the dense layers, and how many weights each has.
        scheme: the quantization.
        ladder: precisions that layers may get, from the fastest.
    """

    def __init__(
        self, evaluator: Evaluator, layers: Mapping[str, int], scheme: Scheme, ladder: Ladder
    ) -> None:
        self._evaluator, self._layers = evaluator, layers
        self._scheme, self._ladder = scheme, ladder

    def run(self) -> SearchResult:
        """Search.

        Raises:
            BudgetError: no layer can be quantized within the budget.
        """
        lowest = self._ladder[0]
        if lowest not in RANGE_METHODS:
            # There are no ranges to choose, and it is nearly always good as it is.
            choices = self._all(lowest)
            error = self._try(choices)
            if error.meets(self._evaluator.budget):
                return SearchResult(choices, error, {}, 0.0)
        choices, error = self.find_fewest_promotions()
        return SearchResult(choices, error, self.sensitivity, 0.0)

    @cached_property
    def sensitivity(self) -> dict[str, dict[RangeMethod, float]]:
        """Divergence with one layer on the lowest step and all others in float, by method."""
        methods = RANGE_METHODS.get(self._ladder[0], (MINMAX,))
        alone = list(itertools.product(self._layers, methods))
        divergences = self._divergences(
            [(name, LayerChoice(self._ladder[0], method)) for name, method in alone]
        )
        found: dict[str, dict[RangeMethod, float]] = {name: {} for name in self._layers}
        for (name, method), divergence in zip(alone, divergences, strict=True):
            found[name][method] = divergence
        return found

    @cached_property
    def on_second(self) -> dict[str, float]:
        """Divergence with one layer on the second step and all others in float."""
        choice = LayerChoice(self._ladder[1])
        divergences = self._divergences([(name, choice) for name in self._layers])
        return dict(zip(self._layers, divergences, strict=True))

    def _divergences(self, alone: Sequence[tuple[str, LayerChoice]]) -> list[float]:
        """Of models with one such layer each."""
        candidates = [{**self._all("float"), name: choice} for name, choice in alone]
        divergences = self._evaluator.divergences(candidates, SENSITIVITY_IMAGES)
        # The bar is made first: while a candidate is built, sys.stderr is held back.
        return list(tqdm(divergences, "sensitivity", len(alone), leave=False, disable=None))

    @cached_property
    def methods(self) -> dict[str, RangeMethod]:
        """Each layer's best range method."""
        return {name: min(by, key=by.__getitem__) for name, by in self.sensitivity.items()}

    @cached_property
    def order(self) -> list[str]:
        """The layers in the order of promotion: those first that cost most.

        A layer's cost is the divergence that it adds alone; per weight where the scheme says so.
        """

        def cost(name: str) -> float:
            added = self._least(name)
            return added / self._layers[name] if self._scheme.cost_per_weight else added

        return sorted(self._layers, key=cost, reverse=True)

    def _least(self, name: str) -> float:
        """Divergence that a layer alone adds on the lowest step, with its best ranges."""
        return min(self.sensitivity[name].values())

    def _skips_second(self, name: str) -> bool:
        return self._ladder[1] != "float" and self.on_second[name] >= self._least(name)

    def choices_at(self, promotions: int) -> dict[str, LayerChoice]:
        """Layer precisions after so many promotions of one layer by one step.

        Round-robin by cost: each layer's first promotion comes before any layer's second. A layer
        that the second step brings no nearer to the float model skips it: convolutions do, where a
        target's dynamic layers have one scale for all their outputs.
        """
        everyone, some = divmod(promotions, len(self.order))
        step = {name: everyone + (i < some) for i, name in enumerate(self.order)}
        for name in self._layers:
            if step[name] == 1 and self._skips_second(name):
                step[name] = 0
        return {name: self._choice(name, self._ladder[step[name]]) for name in self._layers}

    def find_fewest_promotions(self) -> tuple[dict[str, LayerChoice], QuantizationLoss]:
        """The fewest promotions that meet the budget, by bisection.

        With more promotions the model only gets better, but for noise: what is returned was
        really measured.

        Raises:
            BudgetError: not even the most do.
        """
        layers = len(self._layers)
        low, high = 0, (len(self._ladder) - 1) * layers - 1
        choices, error = self._attempt(low)
        if self._meets(error):
            return choices, error
        best = self._attempt(high)
        if not self._meets(best[1]):
            raise BudgetError(self._scheme.name, self._evaluator.budget, best[1])
        # First see whether the second step suffices for all: from there on, files are slower.
        middle = layers
        while high - low > 1:
            if low < middle < high:
                attempt = self._attempt(middle)
                if self._meets(attempt[1]):
                    best, high = attempt, middle
                else:
                    low = middle
            middle = (low + high) // 2
        return best

    def _attempt(self, promotions: int) -> tuple[dict[str, LayerChoice], QuantizationLoss]:
        choices = self.choices_at(promotions)
        return choices, self._try(choices)

    def _try(self, choices: Choices) -> QuantizationLoss:
        error = self._evaluator.error(choices)
        _log.info("%s: %s", _summary(choices, self._ladder), error.describe())
        return error

    def _meets(self, error: QuantizationLoss) -> bool:
        return error.meets(self._evaluator.budget)

    def _all(self, precision: Precision) -> dict[str, LayerChoice]:
        return dict.fromkeys(self._layers, LayerChoice(precision))

    def _choice(self, name: str, precision: Precision) -> LayerChoice:
        return LayerChoice(precision, self.methods[name] if precision in RANGE_METHODS else MINMAX)


class RangeSearch:
    """Finds ranges for integer-only models, where every tensor is int8.

    The steps, each a method: one method for all groups of tensors (:meth:`choose_start`), then
    group by group whether another is better (:meth:`refine`).

    Args:
        evaluator: measures candidates.
        groups: names of the groups of tensors, and the methods to try for each.
        scheme: the quantization.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        groups: Mapping[str, Sequence[RangeMethod]],
        scheme: Scheme,
    ) -> None:
        self._evaluator, self._groups, self._scheme = evaluator, groups, scheme

    def run(self) -> SearchResult:
        """Search.

        Raises:
            BudgetError: the best does not meet the budget.
        """
        start, divergence = self.choose_start()
        choices, sensitivity = self.refine(start, divergence)
        error = self._evaluator.error(choices)
        _log.info(
            "ranges chosen group by group: divergence %.5f, %s", error.divergence, error.describe()
        )
        if not error.meets(self._evaluator.budget):
            raise BudgetError(self._scheme.name, self._evaluator.budget, error)
        return SearchResult(choices, error, sensitivity, divergence)

    def choose_start(self) -> tuple[dict[str, LayerChoice], float]:
        """The best choice of one method for all groups that know it, and its divergence."""
        divergences = self._divergences({m: self._uniform(m) for m in USUAL_METHODS})
        for method, value in divergences.items():
            _log.info("ranges by %s: divergence %.5f", method, value)
        best = min(divergences, key=divergences.__getitem__)
        return self._uniform(best), divergences[best]

    def refine(
        self, start: Choices, divergence: float
    ) -> tuple[dict[str, LayerChoice], dict[str, dict[RangeMethod, float]]]:
        """The best method group by group, and what was measured for each.

        Twice, because the groups depend on each other.
        """
        choices, lowest = dict(start), divergence
        sensitivity: dict[str, dict[RangeMethod, float]] = {}
        for group in tqdm([*self._groups, *self._groups], "ranges", leave=False, disable=None):
            candidates = {
                method: {**choices, group: LayerChoice("static", method)}
                for method in self._groups[group]
            }
            known = {method: lowest for method, c in candidates.items() if c == choices}
            unknown = {method: c for method, c in candidates.items() if method not in known}
            new = known | self._divergences(unknown)
            measured = {method: new[method] for method in candidates}
            best = min(measured, key=measured.__getitem__)
            choices[group], lowest = LayerChoice("static", best), measured[best]
            sensitivity[group] = measured
        return choices, sensitivity

    def _uniform(self, method: RangeMethod) -> dict[str, LayerChoice]:
        return {
            name: LayerChoice("static", method if method in methods else methods[0])
            for name, methods in self._groups.items()
        }

    def _divergences(self, candidates: Mapping[RangeMethod, Choices]) -> dict[RangeMethod, float]:
        found = self._evaluator.divergences(list(candidates.values()), RANGE_IMAGES)
        return dict(zip(candidates, found, strict=True))


def describe_choices(result: SearchResult) -> list[list[str]]:
    """Rows of a table, see :data:`CHOICE_HEADERS`."""
    rows = []
    for name, choice in result.choices.items():
        added = result.added(name)
        method = str(choice.method) if choice.precision in RANGE_METHODS else ""
        extremes = [f"{added[i]:+.1e}" if added else "" for i in (0, -1)]
        rows.append([name, choice.precision, method, *extremes])
    return rows


CHOICE_HEADERS = ["layer", "precision", "ranges", "added divergence, best", "worst ranges"]
"""Name, what was chosen, and :meth:`SearchResult.added` by the best and worst ranges."""


def _summary(choices: Choices, ladder: Ladder) -> str:
    counts = {step: sum(c.precision == step for c in choices.values()) for step in ladder}
    return ", ".join(f"{count} {step}" for step, count in counts.items() if count)


def _log_softmax(logits: AnyArray) -> FloatArray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
