"""Images per second and core, by what has to be read first: the figures of docs/scaling.md."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.sections import Request, Results
from vitsd_runtime import Classifier

_ROUNDS = 5
_SECONDS = 1.0
_FILES = 32
KINDS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "png 32x32": ((32, 32), {"format": "PNG"}),
    "jpeg 500x400": ((500, 400), {"format": "JPEG", "quality": 85}),
    "jpeg 1920x1080": ((1920, 1080), {"format": "JPEG", "quality": 85}),
}


def run(request: Request) -> Results:
    """Measure the kinds in turns, on one thread each, because machines are noisy."""
    classifier = Classifier.load(num_threads=1)
    size = classifier.spec.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (_FILES, *size), np.uint8)
    inputs: dict[str, Any] = {"arrays": pixels}
    kilobytes = {"arrays": pixels[0].nbytes / 1e3}
    for kind in KINDS:
        inputs[kind] = write_pictures(request.scratch, kind)
        kilobytes[kind] = float(np.mean([os.path.getsize(path) for path in inputs[kind]])) / 1e3
    rounds = [
        {kind: _per_second(classifier, given) for kind, given in inputs.items()}
        for _ in range(_ROUNDS)
    ]
    rates = {kind: float(np.median([found[kind] for found in rounds])) for kind in inputs}
    return {
        "rounds": rounds,
        "kilobytes": kilobytes,
        "per_second_and_core": rates,
        "summary": [
            [f"images/s and core, {kind} of {kilobytes[kind]:.0f} kB", f"{rate:.0f}", ""]
            for kind, rate in rates.items()
        ],
    }


def write_pictures(folder: Path, kind: str) -> list[Path]:
    """Pictures as detailed as photos: noise whose amplitude falls with its frequency."""
    (width, height), options = KINDS[kind]
    random = np.random.default_rng(0)
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(width), np.fft.fftfreq(height)))
    falloff = np.maximum(frequencies, 1 / width)[..., None] ** -1.5
    paths = []
    for i in range(_FILES):
        waves = np.fft.fft2(random.normal(size=(height, width, 3)), axes=(0, 1))
        picture = np.fft.ifft2(waves * falloff, axes=(0, 1)).real
        picture = 128 + 50 * (picture - picture.mean()) / picture.std()
        paths.append(folder / f"{kind} {i}".replace(" ", "-"))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(paths[-1], **options)
    return paths


def _per_second(classifier: Classifier, images: Any) -> float:
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < _SECONDS:
        classifier.predict_proba(images)
        done += len(images)
    return done / (time.perf_counter() - start)
