"""Time and memory of ``vitsd-train`` until it trains, over the number of images.

Folders of 1,000 classes, decoded into memory, and packed datasets, which stay on the disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.sections import Request, Results, exponent
from vitsd.data.npy import write_header
from vitsd.data.packed import pack

_CLASSES = 1000
_SIDE = 16
_SOURCES: dict[str, tuple[int, ...]] = {
    "folder": (4_000, 20_000, 100_000, 1_000_000),
    "packed": (10_000, 100_000, 1_000_000),
}
_SECONDS = 1800
_FIRST_STEPS_SECONDS = 10
"""Of training, in which memory is still watched."""


def run(request: Request) -> Results:
    """Start the command for each number, and end it when it trains."""
    small = _write_folder(request.scratch / "small", 4 * _CLASSES)
    pack(small, request.scratch / "small-packed", (_SIDE, _SIDE))
    make: dict[str, Callable[[Path, int], Path]] = {
        "folder": _write_folder,
        "packed": lambda path, count: _enlarge(request.scratch / "small-packed", path, count),
    }
    rows = []
    for source, counts in _SOURCES.items():
        for count in counts:
            data = make[source](request.scratch / f"{source}-{count}", count)
            seconds, megabytes = _start(data, request.scratch / f"run-{source}-{count}")
            rows.append({"source": source, "images": count, "seconds": seconds, "mb": megabytes})
    return {"rows": rows, "summary": [_summarize(row) for row in rows] + _exponents(rows)}


def _write_folder(data: Path, count: int) -> Path:
    """Images of noise in folders of classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        folder = data / f"class-{number % _CLASSES}"
        if number < _CLASSES:
            folder.mkdir(parents=True)
        pixels = random.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png", compress_level=0)
    return data


def _enlarge(packed: Path, target: Path, count: int) -> Path:
    """The same packed dataset with more images: copies with identities of their own."""
    target.mkdir()
    random = np.random.default_rng(0)
    images, labels = (np.load(packed / f"train.{kind}.npy") for kind in ("images", "labels"))
    chosen = np.arange(count) % len(images)
    with open(target / "train.images.npy", "wb") as file:
        write_header(file, (count, *images.shape[1:]), images.dtype)
        for start in range(0, count, len(images)):
            file.write(images[: count - start].tobytes())
    np.save(target / "train.labels.npy", labels[chosen])
    np.save(target / "train.identities.npy", random.integers(0, 2**63, count).astype(np.uint64))
    index = json.loads((packed / "vitsd-data.json").read_text())
    (target / "vitsd-data.json").write_text(json.dumps(index))
    return target


def _start(data: Path, output: Path) -> tuple[float, float]:
    """Seconds until the run is described, which is when training begins; peak memory in MB."""
    words = [sys.executable, "-m", "vitsd.cli.train", "--preset", "tiny", "--data", str(data)]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*words, "--output", str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not (output / "run.json").exists():
            if process.poll() is not None or time.perf_counter() - begun > _SECONDS:
                raise RuntimeError(f"vitsd-train did not begin with {data}.")
            time.sleep(0.02)
        seconds = time.perf_counter() - begun
        time.sleep(_FIRST_STEPS_SECONDS)
        return seconds, _peak_mb(process.pid)
    finally:
        process.kill()
        process.wait()


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def _summarize(row: dict[str, Any]) -> list[str]:
    figures = f"{row['seconds']:.1f} s, {row['mb']:,.0f} MB"
    return [f"vitsd-train's start, {row['images']:,} images, {row['source']}", figures, ""]


def _exponents(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Between the two largest of each source: at small ones Keras' own start hides the power."""
    found = []
    for source in _SOURCES:
        last = [row for row in rows if row["source"] == source][-2:]
        power = exponent([row["images"] for row in last], [row["seconds"] for row in last])
        found.append([f"exponent of time over images, {source}", f"{power:.2f}", "at most 1"])
    return found
