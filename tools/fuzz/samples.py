"""What inputs are made from: small models in every format and quantization, and their JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.fuzz.mutators import images
from tools.fuzz.signing import SPEC
from tools.serving.requests import mixed
from vitsd_runtime.models.catalog import BUNDLED


@dataclass(frozen=True)
class Sample:
    """A model file in its parts."""

    format: str
    payload: bytes
    """The file without its spec."""
    spec: dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """All of them."""

    models: list[Sample]
    dataset: bytes
    """An ``.npz`` file."""
    documents: dict[str, Any]
    """JSON files by what they are: ``results``, ``recipe``, ``run``."""
    images: dict[str, bytes]
    """By name."""
    requests: list[bytes]
    """Over HTTP, to the bundled model."""


def make(folder: Path) -> Samples:
    """Train for an epoch, export everything, and read it all; ``folder`` keeps the models."""
    if not (folder / "done").exists():
        _make_models(folder)
        (folder / "done").touch()
    documents = {
        "run": json.loads((folder / "run" / "run.json").read_text()),
        "recipe": json.loads(next((folder / "exported").glob("*.recipe.json")).read_text()),
        "results": _bench_results(),
    }
    models = [read_model(path) for path in sorted(folder.rglob("*")) if path.suffix[1:] in _FORMATS]
    return Samples(models, dataset(), documents, images.samples(), mixed(BUNDLED))


_FORMATS = ("tflite", "onnx", "keras")


def _make_models(folder: Path) -> None:
    from vitsd.data.sources import load_dataset
    from vitsd.presets import get_preset
    from vitsd.training.train import train
    from vitsd_export import export

    preset = get_preset("tiny")
    config = dataclasses.replace(
        preset.config, image_size=12, hidden_dim=16, num_layers=1, mlp_units=(32, 16)
    )
    recipe = dataclasses.replace(preset.recipe, epochs=1)
    origin = {"preset": "tiny", "source": "digits"}
    train(config, recipe, load_dataset("digits"), folder / "run", origin=origin)
    quantizations = ["none", "float16", "dynamic", "int8", "int8-full", "int4"]
    export(
        folder / "run" / "model.keras",
        ["tflite", "onnx"],
        quantizations,
        folder / "exported",
        keep_failing=True,
        overwrite=True,
        max_drop=100,
    )


def read_model(path: Path) -> Sample:
    """A model file in its parts."""
    from vitsd_runtime.formats import require_spec

    spec, content = require_spec(path), path.read_bytes()
    format = path.suffix[1:]
    if format != "keras":
        assert spec.integrity is not None
        return Sample(format, content[: spec.integrity.size], spec.to_dict())
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            if name != SPEC:
                target.writestr(name, source.read(name))
    return Sample(format, out.getvalue(), spec.to_dict())


def dataset() -> bytes:
    """A small ``.npz`` file."""
    random = np.random.default_rng(0)
    arrays = {
        f"{kind}_{part}": random.integers(0, high, shape, dtype)
        for part, count in (("train", 20), ("test", 6))
        for kind, high, shape, dtype in (
            ("x", 256, (count, 6, 6, 3), np.uint8),
            ("y", 2, (count,), np.int64),
        )
    }
    out = io.BytesIO()
    np.savez(out, class_names=np.array(["cat", "dog"]), **arrays)
    return out.getvalue()


def _bench_results() -> dict[str, Any]:
    from vitsd_runtime.benchmark import measure
    from vitsd_runtime.models.catalog import bundled_model
    from vitsd_runtime.system.machine import describe_machine

    results = measure([bundled_model()], 1, 1, seconds=0.05)
    return {"machine": describe_machine(), "results": results}
