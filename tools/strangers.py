"""Which score tells best what a model knows from what it has never seen?

    python tools/strangers.py MODEL --data SOURCE --strangers SOURCE ... [--json FILE]

Each score is higher for what the model knows. With ``--strangers textures``, images are made that
show none of anybody's classes: stripes, checks, clouds, cells and noise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

import numpy as np

from vitsd.backend import load_keras
from vitsd.evaluation.evaluate import labeled_images, load_matching
from vitsd.evaluation.predict import model_logits
from vitsd.evaluation.strangers import load_strangers, separation, taken_for_known
from vitsd.hub.pretrained import locate_any
from vitsd_runtime.classifier import softmax
from vitsd_runtime.cli import app, options
from vitsd_runtime.formats import require_spec
from vitsd_runtime.images.loading import load_image
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.files import write_text
from vitsd_runtime.system.text import table
from vitsd_runtime.types import AnyArray, UInt8Array

TEXTURES = "textures"
COVERAGES = (0.95, 0.9, 0.8, 0.7, 0.5)
"""Fractions of the known images."""
_SIDE = 64
_COUNT = 2000


def max_probability(logits: AnyArray) -> AnyArray:
    """What ``Prediction.probability`` is; chance correct (D. Hendrycks, arXiv:1610.02136)."""
    largest: AnyArray = softmax(logits).max(axis=1)
    return largest


def margin(logits: AnyArray) -> AnyArray:
    """Between the two largest probabilities."""
    ranked = np.sort(softmax(logits), axis=1)
    difference: AnyArray = ranked[:, -1] - ranked[:, -2]
    return difference


def negative_entropy(logits: AnyArray) -> AnyArray:
    """Of the probabilities."""
    p = softmax(logits)
    total: AnyArray = (p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    return total


def max_logit(logits: AnyArray) -> AnyArray:
    """D. Hendrycks et al., arXiv:1911.11132."""
    largest: AnyArray = logits.max(axis=1)
    return largest


def energy(logits: AnyArray) -> AnyArray:
    """The logarithm of the sum of exponentials (W. Liu et al., arXiv:2010.03759)."""
    largest = logits.max(axis=1, keepdims=True)
    total: AnyArray = largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=1))
    return total


SCORES: dict[str, Callable[[AnyArray], AnyArray]] = {
    "max probability": max_probability,
    "margin": margin,
    "-entropy": negative_entropy,
    "max logit": max_logit,
    "energy": energy,
}


def textures(spec: ModelSpec, count: int, seed: int = 0) -> UInt8Array:
    """Colored patterns at the model's input size, uint8 ``(count, *input_size)``."""
    random = np.random.default_rng(seed)
    patterns = (_stripes, _checks, _clouds, _cells, _noise)
    images = [_colored(patterns[i % len(patterns)](random), random) for i in range(count)]
    return np.stack([load_image(image, spec.input_size) for image in images])


def _stripes(random: np.random.Generator) -> AnyArray:
    y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    angle, waves = random.uniform(0, np.pi), random.uniform(2, 16)
    wave: AnyArray = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)))
    return wave


def _checks(random: np.random.Generator) -> AnyArray:
    y, x = np.mgrid[:_SIDE, :_SIDE]
    step = random.integers(3, 17)
    squares: AnyArray = ((x // step + y // step) % 2).astype(float)
    return squares


def _clouds(random: np.random.Generator) -> AnyArray:
    """Noise whose amplitude falls with the frequency, as in photos of stone, bark or sand."""
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(_SIDE), np.fft.fftfreq(_SIDE)))
    falloff = np.maximum(frequencies, 1 / _SIDE) ** -random.uniform(0.5, 2)
    phases = np.fft.fft2(random.normal(size=(_SIDE, _SIDE)))
    return np.fft.ifft2(phases * falloff).real


def _cells(random: np.random.Generator) -> AnyArray:
    """Distances to the nearest of some points, as in leather, gravel or honeycombs."""
    points = random.uniform(0, _SIDE, (random.integers(8, 80), 2))
    y, x, _ = np.mgrid[:_SIDE, :_SIDE, :1]
    nearest: AnyArray = np.hypot(y - points[:, 0], x - points[:, 1]).min(axis=-1)
    return nearest


def _noise(random: np.random.Generator) -> AnyArray:
    return random.normal(size=(_SIDE, _SIDE))


def _colored(pattern: AnyArray, random: np.random.Generator) -> UInt8Array:
    """Between two colors."""
    share = (pattern - pattern.min()) / np.ptp(pattern)
    low, high = random.uniform(0, 255, (2, 3))
    pixels: UInt8Array = np.round(low + share[..., None] * (high - low)).astype(np.uint8)
    return pixels


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="strangers", description="Compare scores that tell known images from strangers."
    )
    parser.add_argument("model", metavar="MODEL", help=".keras file, run folder, or exported file")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="its own classes")
    parser.add_argument(
        "--strangers",
        required=True,
        nargs="+",
        metavar="SOURCE",
        help=f"datasets, .npz files and folders of other things, or {TEXTURES}",
    )
    parser.add_argument(
        "--limit",
        type=options.positive_int,
        default=_COUNT,
        metavar="N",
        help=f"use at most N images of each (default: {_COUNT})",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> None:
    load_keras()
    model = locate_any(arguments.model)
    spec = require_spec(model)
    known = labeled_images(load_matching(arguments.data, spec), spec, "test", arguments.limit)
    logits = _scaled_logits(model, spec, known.images[:])
    figures = {}
    for source in arguments.strangers:
        images = (
            textures(spec, arguments.limit)
            if source == TEXTURES
            else load_strangers(source, spec, arguments.limit)
        )
        figures[source] = compare(logits, _scaled_logits(model, spec, images))
    if arguments.json:
        write_text(arguments.json, json.dumps(figures, indent=1))
    _print(figures)


def compare(known: AnyArray, strangers: AnyArray) -> dict[str, dict[str, float]]:
    """How well each score tells strangers, and how many a model takes for known by coverage.

    Args:
        known: logits ``(n, classes)``, divided by the temperature.
        strangers: those of the strangers.
    """
    scores = {name: separation(score(known), score(strangers)) for name, score in SCORES.items()}
    largest = max_probability(known), max_probability(strangers)
    by_coverage = {str(c): taken_for_known(*largest, c) for c in COVERAGES}
    return {**scores, "by_coverage": by_coverage}


def _print(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    rows = [[source, *(_cell(found[name]) for name in SCORES)] for source, found in figures.items()]
    print(table(rows, ["strangers", *SCORES]))
    print("AUROC / strangers taken for known (%) where 95 % of the known images are known\n")
    rows = [
        [source, *(f"{100 * share:.1f}" for share in found["by_coverage"].values())]
        for source, found in figures.items()
    ]
    print(table(rows, ["strangers taken for known %", *(f"{c:.0%} known" for c in COVERAGES)]))


def _cell(found: dict[str, float]) -> str:
    return f"{found['auroc']:.3f} / {100 * found['fpr_at_95_coverage']:.1f}"


def _scaled_logits(model: object, spec: ModelSpec, images: UInt8Array) -> AnyArray:
    """Logits divided by the temperature."""
    return np.asarray(model_logits(str(model), images), np.float64) / spec.temperature


if __name__ == "__main__":
    sys.exit(main())
