"""What the core can do: matrix products by precision, and reading memory; and what a model needs.

The products are those of oneDNN through PyTorch; where that is not installed, NumPy's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from vitsd.config import VitConfig

SIDE = 1024
"""Of the square matrices: large enough that the core is never idle."""
_SECONDS = 1.0
_MEMORY_BYTES = 256 * 2**20
"""Of an array that no cache holds."""
_CACHED_BYTES = 512 * 2**10


def measure_limits() -> dict[str, Any]:
    """Of one core, in a process of its own: ``macs`` by precision and ``bytes``, each per second.

    ``bytes_cached`` is what the second-level cache gives.
    """
    command = [sys.executable, "-m", "benchmarks.peers.limits"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    limits: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return limits


def main() -> None:
    """Measure in this process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    found = {
        **_products(),
        "bytes": _reading(_MEMORY_BYTES),
        "bytes_cached": _reading(_CACHED_BYTES),
    }
    print(json.dumps(found))


def _products() -> dict[str, Any]:
    random = np.random.default_rng(0)
    arrays = [random.random((SIDE, SIDE), np.float32) for _ in range(2)]
    try:
        import torch
    except ImportError:
        rate = SIDE**3 / _best(lambda: arrays[0] @ arrays[1])
        return {
            "products_by": "NumPy, all of them float32",
            "macs": dict.fromkeys(("float32", "bfloat16", "int8"), rate),
        }
    torch.set_num_threads(1)
    left, right = map(torch.from_numpy, arrays)
    integers = [(100 * matrix).to(torch.int8) for matrix in (left, right)]
    short = [matrix.to(torch.bfloat16) for matrix in (left, right)]
    integer_product = vars(torch)["_int_mm"]  # it has no public name
    runs: dict[str, Callable[[], Any]] = {
        "float32": lambda: left @ right,
        "bfloat16": lambda: short[0] @ short[1],
        "int8": lambda: integer_product(*integers),
    }
    rates = {name: SIDE**3 / _best(run) for name, run in runs.items()}
    return {"products_by": "oneDNN in PyTorch", "macs": rates}


def _reading(size: int) -> float:
    """Bytes a second, by looking for an array's largest number."""
    values = np.ones(size // 4, np.int32)
    return size / _best(values.max)


def _best(run: Callable[[], object]) -> float:
    """Seconds of the fastest run: a limit is what was possible."""
    run()
    deadline, best = time.perf_counter() + _SECONDS, np.inf
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return float(best)


def count_macs(config: VitConfig) -> dict[str, int]:
    """Multiply-adds an image in the matrix products of the plain graph: ``weights``, ``attention``.

    Args:
        config: the architecture.
    """
    tokens, inner = config.tokens, config.num_heads * config.key_dim
    shapes = [shape for shape in config.weight_shapes() if len(shape) > 1]
    shapes.remove((tokens, config.hidden_dim))  # position embeddings are added
    weights, side = 0, config.image_size
    for stride in config.stem_strides:
        side //= stride
        weights += side**2 * prod(shapes.pop(0))
    if not config.stem_filters:
        weights += tokens * prod(shapes.pop(0))
    heads = len(config.head_units) + 1
    weights += sum(map(prod, shapes[-heads:]))
    # Blocks are alike but for their tokens; 3 * inner of their weights are biases.
    a_token = sum(map(prod, shapes[:-heads])) // config.num_layers - 3 * inner
    by_block = [config.block_tokens(block) for block in range(config.num_layers)]
    return {
        "weights": weights + a_token * sum(by_block),
        "attention": sum(2 * count * count * inner for count in by_block),
    }


if __name__ == "__main__":
    main()
