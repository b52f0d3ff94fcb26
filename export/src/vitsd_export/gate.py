"""Do two models give the same answers? Measured on labelled images, each model run as its user would run it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitsd.evaluation.evaluate import model_logits
from vitsd.evaluation.metrics import paired_difference, top_k_hits
from vitsd_runtime.formats import detect_format
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.text import distinct_names


@dataclass(frozen=True)
class Tolerance:
    """What a model may differ from its reference. None: not limited."""

    logit_difference: float | None
    """Largest difference of a logit, in standard deviations of the reference's logits."""
    agreement: float
    """Smallest fraction of images with the same top-1 class."""
    top1_drop: float | None
    """Largest loss of top-1 accuracy, as a fraction of all images."""


TOLERANCES = {
    "none": Tolerance(1e-3, 1.0, 0.0),
    "float16": Tolerance(None, 0.995, 0.005),
    "dynamic": Tolerance(None, 0.97, 0.01),
    "int8": Tolerance(None, 0.96, 0.015),
    "int8-full": Tolerance(None, 0.94, 0.015),
    "int4": Tolerance(None, 0.90, 0.015),
}
"""By quantisation. The searched ones (see :mod:`vitsd_export.quantization.search`) met a stricter budget on validation images before; the
rest is for the chance of other images."""


@dataclass(frozen=True)
class Comparison:
    """One model against the reference, on the same images."""

    path: str
    quantization: str
    bytes: int
    images: int
    top1: float
    top5: float
    agreement: float
    max_difference: float | None
    """None if a logit is NaN or infinite, also in the two below."""
    mean_difference: float | None
    relative_difference: float | None
    """``max_difference`` in standard deviations of the reference's logits."""
    top1_change: tuple[float, float, float]
    """Top-1 minus that of the reference, with its 95 % interval (paired)."""
    failures: tuple[str, ...]
    """What is beyond the tolerance; empty if nothing is."""

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict:
        return {**vars(self), "passed": self.passed}

    def figures(self) -> dict:
        """What goes into the model's spec."""
        return {
            k: v for k, v in self.to_dict().items() if k not in ("path", "bytes", "quantization")
        }


def compare(
    path: str | os.PathLike,
    spec: ModelSpec,
    images: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray,
    logits: np.ndarray | None = None,
) -> Comparison:
    """Compare a model with a reference's logits.

    Args:
        path: the model: ``.keras``, or anything that the runtime loads.
        spec: the model's own spec; its quantisation decides the tolerance.
        images: uint8 ``(n, *input_size)``.
        labels: ``(n,)``.
        reference: float32 ``(n, classes)``, the reference's logits for ``images``.
        logits: the model's own logits for ``images``, if they are at hand.
    """
    logits = model_logits(path, images) if logits is None else logits
    difference = np.abs(logits - reference)
    hits, reference_hits = top_k_hits(logits, labels, 1), top_k_hits(reference, labels, 1)
    quantization = spec.export.quantization if spec.export else "none"
    agreement = float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean())
    relative = float(difference.max() / max(reference.std(), 1e-12))
    change = paired_difference(reference_hits, hits)
    return Comparison(
        path=str(path),
        quantization=quantization,
        bytes=model_bytes(path),
        images=len(images),
        top1=float(hits.mean()),
        top5=float(top_k_hits(logits, labels, 5).mean()),
        agreement=agreement,
        max_difference=_finite(difference.max()),
        mean_difference=_finite(difference.mean()),
        relative_difference=_finite(relative),
        top1_change=change,
        failures=tuple(_failures(TOLERANCES[quantization], agreement, relative, change[0])),
    )


def _finite(value) -> float | None:
    return float(value) if np.isfinite(value) else None


def _failures(tolerance: Tolerance, agreement: float, relative: float, change: float):
    if not np.isfinite(relative):
        yield "logits are NaN or infinite"
        return
    if tolerance.logit_difference is not None and relative > tolerance.logit_difference:
        yield f"largest logit difference {relative:.1e} of the logits' spread (at most {tolerance.logit_difference:.0e})"
    if agreement < tolerance.agreement:
        yield f"top-1 agreement {100 * agreement:.2f} % (at least {100 * tolerance.agreement:g} %)"
    if tolerance.top1_drop is not None and -change > tolerance.top1_drop:
        yield f"top-1 accuracy {100 * change:+.2f} points (at most {100 * tolerance.top1_drop:g} may be lost)"


def model_bytes(path: str | os.PathLike) -> int:
    """Size of a model file, or of all files of a SavedModel."""
    path = Path(path)
    if detect_format(path) == "saved_model":
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


HEADERS = (
    "model",
    "size MB",
    "top-1 %",
    "top-5 %",
    "change (95 %)",
    "agreement %",
    "max |diff|",
    "mean |diff|",
    "verdict",
)


def table_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Cells for :data:`HEADERS`."""
    names = distinct_names(comparison.path for comparison in comparisons)
    return [_row(name, comparison) for name, comparison in zip(names, comparisons, strict=True)]


def _row(name: str, comparison: Comparison) -> list[str]:
    change, low, high = (100 * value for value in comparison.top1_change)
    return [
        name,
        f"{comparison.bytes / 1e6:.2f}",
        f"{100 * comparison.top1:.2f}",
        f"{100 * comparison.top5:.2f}",
        f"{change:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{100 * comparison.agreement:.2f}",
        *(
            "n/a" if d is None else f"{d:.2g}"
            for d in (comparison.max_difference, comparison.mean_difference)
        ),
        "ok" if comparison.passed else "FAIL",
    ]
