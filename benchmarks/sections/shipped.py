"""The bundled model beside the published architecture in int8.

Measured by ``vitsd-bench``, in a process without TensorFlow.
"""

from __future__ import annotations

import json
import subprocess

from benchmarks.models import export_untrained
from benchmarks.sections import Request, Results
from vitsd_runtime.models.catalog import BUNDLED, bundled_model

OPTIONS = ("--num-threads", "1", "--batch-sizes", "1", "--seconds", "10", "--json")


def run(request: Request) -> Results:
    """Measure both in turns."""
    small_path = export_untrained("vit-small-ds", request.scratch, [("tflite", "int8")])
    command = ["vitsd-bench", str(bundled_model()), *map(str, small_path.values()), *OPTIONS]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    edge, small = json.loads(done.stdout)["results"]
    size = bundled_model().stat().st_size
    times = small["p50_ms"] / edge["p50_ms"]
    return {
        "results": [{**edge, "bytes": size}, small],
        "summary": [
            [BUNDLED, f"{edge['p50_ms']:.3f} ms, {size / 1e6:.2f} MB", "at most 1.5 MB"],
            [
                "vit-small-ds int8, share of its latency",
                f"{small['p50_ms']:.3f} ms, 1/{times:.2f}",
                "at most 1/6",
            ],
        ],
    }
