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
from vitsd_runtime.system.json_files import read_json
from vitsd_runtime.system.text import distinct_names, printable
from vitsd_runtime.types import PathLike, UInt8Array

SETTING = ("model", "threads", "batch_size")
"""Entries of a result that say what was measured."""
_MAX_RESULTS_BYTES = 4 * 2**20
_MIN_RUNS = 10
_WARM_UP_RUNS = 3
_LARGEST = 10**12
_NUMBER = (int, float)
_POSITIVE = ("threads", "batch_size", "p50_ms", "images")
_ROW: dict[str, Any] = {
    "model": str,
    "engine": str,
    "threads": int,
    "batch_size": int,
    "p50_ms": _NUMBER,
}
_MODEL: dict[str, Any] = {"model": str, "sha256": str}
_DATA: dict[str, Any] = {"data_sha256": str}
"""Of what the accuracy was measured on, if it was."""
_ACCURACY: dict[str, Any] = {
    "top1": _NUMBER,
    "top1_interval": list,
    "images": int,
}
_MACHINE: dict[str, Any] = {
    "cpu": str,
    "cores": int,
    "physical_cores": int,
    "system": str,
    "python": str,
}
MACHINE_MAY_TELL: dict[str, Any] = {
    "cpu_quota": _NUMBER,
    "board": str,
    "governor": str,
    "max_mhz": _NUMBER,
    "memory_mb": _NUMBER,
}
"""What not every machine tells of itself, with its types; None in a report where it does not."""
STATE_MAY_TELL: dict[str, Any] = {
    "temperature_c": _NUMBER,
    "clock_mhz": _NUMBER,
    "throttled": list,
    "throttle_events": int,
}
"""The same, of how warm and fast it is before and after."""


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
    burst: int = 10,
    **loading: Any,
) -> list[dict[str, Any]]:
    """Latencies of several models, run in turns so that their ratios hold on a noisy machine.

    Args:
        models: exported files, or SavedModel folders.
        num_threads: of each engine.
        batch_size: images per run.
        seconds: of measuring, per model.
        burst: runs of a model in one turn; in the first the caches are full of the model before.
        **loading: other options of :meth:`Classifier.load`.

    Returns:
        A dict per model: the :data:`SETTING`, ``engine``, percentiles ``p50_ms`` ``p90_ms``
        ``p99_ms`` of the engine alone, ``preprocessing_ms``, ``images_per_second`` of both
        together, ``load_ms``, ``runs``.

    Raises:
        UsageError, VitsdError: as for :meth:`Classifier.load`.
    """
    subjects = [_load(model, num_threads, batch_size, loading) for model in models]
    deadline = time.perf_counter() + seconds * len(subjects)
    while time.perf_counter() < deadline or len(subjects[0].running) < _MIN_RUNS:
        for subject in subjects:
            subject.run(burst)
    names = distinct_names(subject.model for subject in subjects)
    return [subject.result(name) for name, subject in zip(names, subjects)]


def compare(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each result of any number of saved measurements, equal settings together.

    Args:
        reports: of :func:`read_results`.

    Returns:
        The :data:`SETTING`; ``file``, the number of its report from 1; ``engine``; ``p50_ms``;
        ``speedup``, how many times as fast as the first row of this setting; and, where the report
        tells them, else None: the model's ``sha256``; ``top1``, ``top1_interval`` and ``images`` of
        its accuracy, and ``data_sha256``.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for number, report in enumerate(reports, 1):
        models = {about["model"]: about for about in report.get("models") or ()}
        for result in report["results"]:
            setting = {key: result[key] for key in SETTING}
            group = groups.setdefault(tuple(setting.values()), [])
            p50_ms, about = result["p50_ms"], models.get(result["model"], {})
            accuracy = about.get("accuracy") or {}
            group.append(
                {
                    **setting,
                    "file": number,
                    "engine": result["engine"],
                    "p50_ms": p50_ms,
                    "speedup": group[0]["p50_ms"] / p50_ms if group else 1.0,
                    **{name: about.get(name) for name in ("sha256", "data_sha256")},
                    **{name: accuracy.get(name) for name in _ACCURACY},
                }
            )
    return [row for group in groups.values() for row in group]


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
    _check(report["machine"], _MACHINE, MACHINE_MAY_TELL)
    for row in report["results"]:
        _check(row, _ROW)
    for state in (report.get("before") or {}, report.get("after") or {}):
        _check(state, {}, STATE_MAY_TELL)
        _require(all(isinstance(text, str) for text in state.get("throttled") or ()))
    for about in report.get("models") or ():
        _check(about, _MODEL, _DATA)
        if accuracy := about.get("accuracy"):
            _check(about, _DATA)
            _check(accuracy, _ACCURACY)
            bounds = [accuracy["top1"], *accuracy["top1_interval"]]
            _require(len(bounds) == 3 and all(0 <= bound <= 1 for bound in bounds))


def _check(
    entry: dict[str, Any], required: Mapping[str, Any], optional: Mapping[str, Any] | None = None
) -> None:
    told = {name: kind for name, kind in (optional or {}).items() if entry.get(name) is not None}
    for name, kind in {**required, **told}.items():
        _require(isinstance(entry[name], kind) and not isinstance(entry[name], bool))
        if name in _POSITIVE:
            _require(1 / _LARGEST <= entry[name] <= _LARGEST)


def _require(fits: bool) -> None:
    if not fits:
        raise ValueError("an entry that vitsd-bench does not write")


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
