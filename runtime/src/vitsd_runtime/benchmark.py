"""Measure the latency of exported models on this machine, and compare saved measurements."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.json_files import read_json
from vitsd_runtime.system.text import distinct_names, printable
from vitsd_runtime.types import PathLike, UInt8Array

SETTING = ("model", "threads", "batch_size")
"""Entries of a result that say what was measured."""
_MAX_RESULTS_BYTES = 4 * 2**20
_MIN_RUNS = 10
_WARM_UP_RUNS = 3
_ROW: dict[str, Any] = {
    "model": str,
    "engine": str,
    "threads": int,
    "batch_size": int,
    "p50_ms": (int, float),
}
_MACHINE: dict[str, Any] = {
    "cpu": str,
    "cores": int,
    "physical_cores": int,
    "system": str,
    "python": str,
}
_OPTIONAL: dict[str, Any] = {
    "cpu_quota": (int, float),
    "board": str,
    "governor": str,
    "max_mhz": (int, float),
    "memory_mb": (int, float),
}


@dataclass
class _Subject:
    """A model under measurement; times in ms."""

    model: PathLike
    classifier: Classifier
    pixels: UInt8Array
    load_ms: float
    preparing: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)

    def run(self, times: int) -> None:
        for _ in range(times):
            start = time.perf_counter()
            batch = self.classifier.prepare(self.pixels)
            middle = time.perf_counter()
            self.classifier.forward(batch)
            self.running.append(1e3 * (time.perf_counter() - middle))
            self.preparing.append(1e3 * (middle - start))

    def result(self, name: str) -> dict[str, Any]:
        batch_size = len(self.pixels)
        total = float(np.median(self.running) + np.median(self.preparing))
        return {
            "model": name,
            "engine": self.classifier.engine.name,
            "threads": self.classifier.num_threads,
            "batch_size": batch_size,
            "p50_ms": float(np.percentile(self.running, 50)),
            "p90_ms": float(np.percentile(self.running, 90)),
            "p99_ms": float(np.percentile(self.running, 99)),
            "preprocessing_ms": float(np.median(self.preparing)),
            "images_per_second": 1e3 * batch_size / total,
            "load_ms": self.load_ms,
            "runs": len(self.running),
        }


def measure(
    models: Sequence[PathLike],
    num_threads: int,
    batch_size: int,
    seconds: float,
    *,
    verify: bool = True,
    spec: ModelSpec | None = None,
    allow_any_operation: bool = False,
    burst: int = 10,
) -> list[dict[str, Any]]:
    """Latencies of several models, run in turns so that their ratios hold on a noisy machine.

    Args:
        models: exported files, or SavedModel folders.
        num_threads: of each engine.
        batch_size: images per run.
        seconds: of measuring, per model.
        verify: as for :meth:`Classifier.load`.
        spec: for models that carry none.
        allow_any_operation: as for :meth:`Classifier.load`.
        burst: runs of a model in one turn; in the first the caches are full of the model before.

    Returns:
        A dict per model: the :data:`SETTING`, ``engine``, percentiles ``p50_ms`` ``p90_ms``
        ``p99_ms`` of the engine alone, ``preprocessing_ms``, ``images_per_second`` of both
        together, ``load_ms``, ``runs``.

    Raises:
        UsageError, VitsdError: as for :meth:`Classifier.load`.
    """
    options = {"verify": verify, "spec": spec, "allow_any_operation": allow_any_operation}
    subjects = [_load(model, num_threads, batch_size, options) for model in models]
    deadline = time.perf_counter() + seconds * len(subjects)
    while time.perf_counter() < deadline or len(subjects[0].running) < _MIN_RUNS:
        for subject in subjects:
            subject.run(burst)
    names = distinct_names(subject.model for subject in subjects)
    return [subject.result(name) for name, subject in zip(names, subjects)]


def compare(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for the settings that two saved measurements have in common.

    Returns:
        The :data:`SETTING`, ``a_engine`` and ``b_engine``, both medians ``a_p50_ms`` and
        ``b_p50_ms``, and ``speedup``, their ratio.
    """
    others = {tuple(row[key] for key in SETTING): row for row in second["results"]}
    rows = []
    for a in first["results"]:
        setting = tuple(a[key] for key in SETTING)
        if setting in others:
            b = others[setting]
            rows.append(
                {
                    **dict(zip(SETTING, setting)),
                    "a_engine": a["engine"],
                    "b_engine": b["engine"],
                    "a_p50_ms": a["p50_ms"],
                    "b_p50_ms": b["p50_ms"],
                    "speedup": a["p50_ms"] / b["p50_ms"],
                }
            )
    return rows


def read_results(path: Path) -> dict[str, Any]:
    """What ``vitsd-bench --save`` wrote.

    Raises:
        UsageError: the file can't be read, or holds something else.
    """
    what = "a file of results of vitsd-bench --save"
    report: dict[str, Any] = read_json(path, what, _MAX_RESULTS_BYTES)
    try:
        _check_results(report)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{printable(path)} is not {what}.") from error
    return report


def _check_results(report: dict[str, Any]) -> None:
    machine = report["machine"]
    known = {**_MACHINE, **{name: kind for name, kind in _OPTIONAL.items() if name in machine}}
    for entry, kinds in ((machine, known), *((row, _ROW) for row in report["results"])):
        if not all(isinstance(entry[name], kind) for name, kind in kinds.items()):
            raise ValueError("an entry of another type")
    if not all(row["p50_ms"] > 0 for row in report["results"]):
        raise ValueError("a row without its latency")


def _load(
    model: PathLike, num_threads: int, batch_size: int, options: Mapping[str, Any]
) -> _Subject:
    start = time.perf_counter()
    classifier = Classifier.load(model, num_threads=num_threads, batch_size=batch_size, **options)
    load_ms = 1e3 * (time.perf_counter() - start)
    shape = (batch_size, *classifier.spec.input_size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for _ in range(_WARM_UP_RUNS):
        classifier.logits(pixels)
    return _Subject(model, classifier, pixels, load_ms)
