"""``vitsd-serve`` beside its load generator, on the same cores: throughput, latency, overload."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from tools.serving.load import Reply, ask_all, post, repeat
from tools.serving.process import ServerProcess
from tools.serving.requests import pictures

from benchmarks.sections import Request, Results
from vitsd_runtime import Classifier

_ROUNDS = 5
_SECONDS = 4.0
_CONNECTIONS = 32

Ask = Callable[..., list[Reply]]


def run(request: Request) -> Results:
    """Measure the direct call and the server in turns, because machines are noisy."""
    images = [post("/v1/predict", picture) for picture in pictures(64)]
    with ServerProcess() as server:

        def ask(requests: Iterable[bytes], connections: int, rate: float | None = None) -> Any:
            return asyncio.run(ask_all((server.host, server.port), requests, connections, rate))

        ask(repeat(images, 500), _CONNECTIONS)  # warm
        rounds = [_round(ask, images) for _ in range(_ROUNDS)]
        crowd = ask(repeat(images, 1000), 1000)
        memory = server.memory_mb()
    statuses = collections.Counter(reply.status for reply in crowd)
    ratio = float(np.median([r["served_per_second"] / r["direct_per_second"] for r in rounds]))
    p99 = float(np.median([r["p99_ms"] for r in rounds]))
    return {
        "rounds": rounds,
        "crowd": dict(statuses),
        "memory_mb": memory,
        "summary": [
            ["served images/s on those of Classifier on arrays", f"{ratio:.0%}", "at least 70 %"],
            ["p99 at a quarter of that load", f"{p99:.1f} ms", "under 20 ms"],
            [
                "1,000 requests at once, queue of 64",
                f"{statuses[200]} answered, {statuses[503]} refused (503)",
                "none lost",
            ],
            ["memory of the server", f"{memory:.0f} MiB", ""],
        ],
    }


def _round(ask: Ask, images: list[bytes]) -> dict[str, float]:
    before = _direct_per_second()
    count = int(before * _SECONDS)
    start = time.perf_counter()
    replies = ask(repeat(images, count), _CONNECTIONS)
    served = sum(reply.status == 200 for reply in replies) / (time.perf_counter() - start)
    direct = (before + _direct_per_second()) / 2
    rate = served / 4
    calm = ask(repeat(images, int(rate * _SECONDS)), _CONNECTIONS, rate)
    times = [1e3 * reply.seconds for reply in calm if reply.status == 200]
    return {
        "direct_per_second": direct,
        "served_per_second": served,
        "rate": rate,
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
    }


def _direct_per_second() -> float:
    """Images per second of ``Classifier`` on an array of them, on one thread."""
    classifier = Classifier.load(num_threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (512, *classifier.spec.input_size), np.uint8)
    classifier.predict_proba(pixels)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < _SECONDS / 2:
        classifier.predict_proba(pixels)
        done += len(pixels)
    return done / (time.perf_counter() - start)
