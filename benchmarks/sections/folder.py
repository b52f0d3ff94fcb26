"""Folders through ``vitsd-predict``, whole processes: images per second, start, memory.

In turns with the code of an early commit, where this is a clone that has it.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import vitsd_runtime
from benchmarks.sections import Request, Results
from benchmarks.sections.runtime import peak_rss
from benchmarks.sections.scaling import write_pictures

_EARLY = "9d0f185"
_ROOT = Path(__file__).resolve().parents[2]
_ROUNDS, _STARTS = 3, 15
"""A start is short, and depends more than work does on what the machine did just before."""
_IMAGES = {"png 32x32": 6000, "jpeg 500x400": 2000}
_PROMISED = {"png 32x32": 1.8, "jpeg 500x400": 2.5}
"""Times as many images per second as the early commit."""


def run(request: Request) -> Results:
    """Measure all of it."""
    here = Path(vitsd_runtime.__file__).parents[1]
    ways: dict[str, tuple[Path, Sequence[str]]] = {
        "now": (here, ()),
        "one worker": (here, ("--workers", "1")),
    }
    if early := _early_code(request.scratch / "early"):
        ways["early"] = early, ()
    jobs = {kind: _folder(request.scratch, kind) for kind in _IMAGES}
    jobs["start"] = next(jobs["png 32x32"].iterdir())
    seconds: dict[str, dict[str, list[float]]] = {job: {way: [] for way in ways} for job in jobs}
    for number in range(_STARTS):
        for job in jobs if number < _ROUNDS else ["start"]:
            for way in ways:
                seconds[job][way].append(_seconds(*ways[way], jobs[job]))
    medians = {
        job: {way: float(np.median(found)) for way, found in by_way.items()}
        for job, by_way in seconds.items()
    }
    memory = peak_rss(_large_photo(request.scratch))
    return {
        "seconds": seconds,
        "early": _EARLY if early else None,
        "peak_rss_mb": memory,
        "summary": [
            *(_summarize(kind, medians[kind]) for kind in _IMAGES),
            [
                "process start to the first answer",
                f"{medians['start']['now']:.3f} s",
                "under 0.25 s",
            ],
            ["peak RSS, a JPEG of 48 megapixels", f"{memory:.0f} MB", "under 150 MB"],
        ],
    }


def _summarize(kind: str, seconds: dict[str, float]) -> list[str]:
    rates = {way: _IMAGES[kind] / spent for way, spent in seconds.items()}
    text, promised = ", ".join(f"{way} {rate:.0f}" for way, rate in rates.items()), ""
    if "early" in rates:
        text += f": {rates['now'] / rates['early']:.2f} times {_EARLY}"
        promised = f"{_PROMISED[kind]} times"
    return [f"images/s of a folder, {kind}", text, promised]


def _early_code(folder: Path) -> Path | None:
    """The runtime as it was at the early commit; None where git can't give it."""
    command = ["git", "-C", str(_ROOT), "archive", _EARLY, "runtime/src"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder / "runtime" / "src"


def _folder(scratch: Path, kind: str) -> Path:
    """Some pictures, under as many names as there are to be images."""
    folder = scratch / kind.replace(" ", "-")
    originals = scratch / f"originals-{folder.name}"
    for path in (folder, originals):
        path.mkdir()
    pictures = write_pictures(originals, kind)
    suffix = f".{kind.split()[0]}"
    for number in range(_IMAGES[kind]):
        os.link(pictures[number % len(pictures)], folder / f"{number:05d}{suffix}")
    return folder


def _large_photo(scratch: Path) -> Path:
    path = scratch / "large.jpg"
    small = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(small).resize((8000, 6000), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def _seconds(code: Path, options: Sequence[str], source: Path) -> float:
    """Of a whole process of ``vitsd-predict``."""
    command = [sys.executable, "-m", "vitsd_runtime.cli.predict", *options, str(source)]
    environment, nowhere = {**os.environ, "PYTHONPATH": str(code)}, subprocess.DEVNULL
    start = time.perf_counter()
    subprocess.run(command, stdout=nowhere, stderr=nowhere, check=True, env=environment)
    return time.perf_counter() - start
