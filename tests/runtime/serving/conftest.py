"""A server within the test's process, over a stand-in for its model; and a real one."""

import asyncio
import importlib.util
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vitsd_runtime import Classifier

_NEEDED = ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client", "PIL")
if not all(map(importlib.util.find_spec, (*_NEEDED, "httpx"))):  # without the extra "serve"
    collect_ignore_glob = ["test_*.py"]


def png(pixels) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(out, "PNG")
    return out.getvalue()


class Engine:
    """Knows light from dark; a class for it, so that tests can slow it down or break it."""

    name, extra = "stand-in 1", "tflite"

    def run(self, batch):
        brightness = batch.mean(axis=(1, 2, 3))
        return np.stack([brightness, -brightness, np.zeros_like(brightness)], axis=1)


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def classifier(spec, engine):
    integrity = SimpleNamespace(sha256="0123456789abcdef" * 4)
    spec = spec.replace(class_names=("light", "dark", "grey"))
    object.__setattr__(spec, "integrity", integrity)
    return Classifier(engine, spec, Path("m.tflite"), 1, batch_size=4)


@pytest.fixture
def serving(monkeypatch, classifier, tmp_path):
    """Run a test's coroutine with a client of the application, and its models.

    Whatever is loaded is the stand-in, unless ``load`` of the result is replaced.
    """
    import httpx

    from vitsd_runtime.serving.app import App
    from vitsd_runtime.serving.metrics import Metrics
    from vitsd_runtime.serving.models import Models, Source
    from vitsd_runtime.serving.settings import Settings

    path = tmp_path / "m.tflite"
    path.write_bytes(b"first")
    hooks = SimpleNamespace(load=lambda path, **_: classifier, path=path)
    monkeypatch.setattr(Classifier, "load", lambda path, **options: hooks.load(path, **options))

    def run(scenario, *words, **settings):
        async def all_of_it():
            chosen = Settings(**settings)
            metrics = Metrics()
            models = Models(chosen, metrics)
            for word in words or (str(path),):
                await models.add(Source.parse(word))
            transport = httpx.ASGITransport(App(models, metrics, chosen))
            try:
                async with httpx.AsyncClient(
                    transport=transport, base_url="http://localhost"
                ) as client:
                    await scenario(client, models)
            finally:
                models.stop()

        asyncio.run(all_of_it())

    run.hooks = hooks
    return run


@pytest.fixture
def light():
    return png(np.full((40, 30, 3), 250))


@pytest.fixture
def dark():
    return png(np.full((40, 30, 3), 5))
