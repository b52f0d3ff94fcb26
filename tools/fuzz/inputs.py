"""The inputs, each a function of seed, kind and number: any of them can be made again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from tools.fuzz import signing
from tools.fuzz.mutators import document, http, images, keras, npz, onnx, raw, tflite
from tools.fuzz.samples import Sample, Samples

_UNSIGNED = 0.1
"""Part of the models whose digest does not fit: damage instead of malice."""


def make(samples: Samples, seed: int, kind: str, number: int) -> tuple[str, bytes]:
    """The name of a file, and its content."""
    rng = Random(f"{seed} {kind} {number}")
    return _MAKERS[kind](rng, samples)


def _tflite(rng: Random, samples: Samples) -> tuple[str, bytes]:
    return _model(rng, samples, "tflite", tflite.mutate)


def _onnx(rng: Random, samples: Samples) -> tuple[str, bytes]:
    return _model(rng, samples, "onnx", onnx.mutate)


def _keras(rng: Random, samples: Samples) -> tuple[str, bytes]:
    return _model(rng, samples, "keras", keras.mutate)


def _model(
    rng: Random, samples: Samples, format: str, mutate: Callable[[Random, bytes], bytes]
) -> tuple[str, bytes]:
    sample = _choose(rng, samples, format)
    if rng.random() < _UNSIGNED:
        return f"model.{format}", raw.mutate(
            rng, signing.packed(format, sample.payload, sample.spec)
        )
    return f"model.{format}", signing.packed(format, mutate(rng, sample.payload), sample.spec)


def _spec(rng: Random, samples: Samples) -> tuple[str, bytes]:
    format = rng.choice(("tflite", "onnx", "keras"))
    sample = _choose(rng, samples, format)
    spec = document.mutate(rng, signing.sign(format, sample.payload, sample.spec))
    return f"model.{format}", signing.pack(format, sample.payload, spec)


def _choose(rng: Random, samples: Samples, format: str) -> Sample:
    return rng.choice([model for model in samples.models if model.format == format])


def _npz(rng: Random, samples: Samples) -> tuple[str, bytes]:
    return "dataset.npz", npz.mutate(rng, samples.dataset)


def _image(rng: Random, samples: Samples) -> tuple[str, bytes]:
    name = rng.choice(sorted(samples.images))
    return f"image{Path(name).suffix}", images.mutate(rng, name, samples.images[name])


def _json(rng: Random, samples: Samples) -> tuple[str, bytes]:
    name = rng.choice(sorted(samples.documents))
    return f"{name}.json", document.mutate(rng, samples.documents[name])


def _http(rng: Random, samples: Samples) -> tuple[str, bytes]:
    return "request.http", http.mutate(rng, rng.choice(samples.requests))


_MAKERS: dict[str, Callable[[Random, Samples], tuple[str, bytes]]] = {
    "tflite": _tflite,
    "onnx": _onnx,
    "spec": _spec,
    "keras": _keras,
    "npz": _npz,
    "image": _image,
    "json": _json,
    "http": _http,
}
KINDS = tuple(_MAKERS)
_SHARES = {
    "tflite": 6,
    "onnx": 5,
    "image": 4,
    "http": 3,
    "spec": 2,
    "npz": 1,
    "json": 1,
    "keras": 1,
}
"""How many inputs of each kind in a round; a ``.keras`` file takes longest."""


def numbered(kinds: Sequence[str], count: int) -> Iterator[tuple[str, int]]:
    """Kind and number of ``count`` inputs, the kinds mixed by their shares."""
    rounds = [
        kind for turn in range(max(_SHARES.values())) for kind in kinds if turn < _SHARES[kind]
    ]
    numbers = dict.fromkeys(kinds, 0)
    for kind in itertools.islice(itertools.cycle(rounds), count):
        yield kind, numbers[kind]
        numbers[kind] += 1
