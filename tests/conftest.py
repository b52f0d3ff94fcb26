"""Shared fixtures: one really trained model, exported once with the real converters.

On a device there is neither trainer nor exporter: the runtime's tests run there with what was made
elsewhere, in the folder that VITSD_TEST_ARTIFACTS names (see tools/arm64), and skip what no engine
there can run.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import dataclasses
import importlib
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from vitsd_runtime import ModelSpec

# Nothing is timed: the machine may be busy, and the first call compiles.
settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


MADE_ELSEWHERE = os.environ.get("VITSD_TEST_ARTIFACTS")
ENGINES = {
    ".tflite": ("ai_edge_litert", "tflite_runtime"),
    ".onnx": ("onnxruntime",),
    "_saved_model": ("tensorflow",),
}


_SLOW_FIXTURES = {"command", "trained", "exported", "exported_model", "artifact"}
"""What takes seconds: commands in processes of their own, training, exports."""


def pytest_collection_modifyitems(items):
    """Mark tests as slow by the fixtures that they use."""
    for item in items:
        if _SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


def made_once(tmp_path_factory, name: str, make) -> Path:
    """A folder that one of the test processes makes, and all of them read."""
    import fcntl

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each process has a folder in it
    folder, done = root / name, root / f"{name}.done"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A run folder: preset `tiny`, shortened, trained on handwritten digits. Only read it."""
    if MADE_ELSEWHERE:
        return Path(MADE_ELSEWHERE)
    return made_once(tmp_path_factory, "digits", _train)


def _train(output: Path) -> None:
    from vitsd.data.sources import load_dataset
    from vitsd.presets import get_preset
    from vitsd.training.train import train

    preset = get_preset("tiny")
    recipe = dataclasses.replace(preset.recipe, epochs=8)
    config = dataclasses.replace(preset.config, num_layers=2)
    origin = {"preset": "tiny", "source": "digits"}
    train(config, recipe, load_dataset("digits"), output, origin=origin)


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> Path:
    """A folder with every format and quantization of the trained model. Only read it."""
    if MADE_ELSEWHERE:
        return trained / "exported"
    from vitsd_export import export

    names = ["none", "float16", "dynamic", "int8", "int8-full", "int4"]
    return made_once(
        tmp_path_factory,
        "exported",
        lambda folder: export(trained / "model.keras", "all", names, folder),
    )


@pytest.fixture(scope="session")
def exported_model(exported):
    """Find the first exported model that runs here, by the ends of their names."""

    def find(*endings: str) -> Path:
        for ending in endings:
            path = exported / f"digits{ending}"
            engines = next(modules for end, modules in ENGINES.items() if ending.endswith(end))
            if not MADE_ELSEWHERE or (
                path.exists() and any(map(importlib.util.find_spec, engines))
            ):
                return path
        pytest.skip(f"nothing here runs {' or '.join(endings)}")

    return find


@pytest.fixture
def artifact(exported_model, tmp_path):
    """A function that copies such a file or folder, to spoil it."""

    def copy(*endings: str) -> Path:
        source = exported_model(*endings)
        target = tmp_path / source.name
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
        return target

    return copy


@pytest.fixture(scope="session")
def digits():
    """Held-out images, uint8 (359, 8, 8, 1), and labels."""
    if MADE_ELSEWHERE:
        with np.load(Path(MADE_ELSEWHERE) / "digits.npz") as stored:
            return SimpleNamespace(**stored)
    from vitsd.data.sources import load_dataset

    return load_dataset("digits").test


@pytest.fixture
def spec() -> ModelSpec:
    """A spec for color images, with no model."""
    return ModelSpec(
        name="example",
        class_names=("cat", "dog", "owl"),
        input_size=(32, 24, 3),
        image_size=48,
        mean=(120.0, 110.0, 100.0),
        variance=(4000.0, 3900.0, 4100.0),
        augmentation={"flip": "horizontal", "rotation": 0.05, "zoom": 0.2},
    )


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth uint8 color image of 60x80 pixels, different in every direction."""
    y, x = np.mgrid[0:60, 0:80]
    return np.stack([3 * x, 4 * y, x + y], axis=-1).astype(np.uint8)


@pytest.fixture
def command():
    """Run a command-line tool in a process of its own; returns the finished process."""

    def run(name: str, *arguments, cwd=None, env=None, timeout=240):
        return subprocess.run(
            [Path(sys.executable).parent / name, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=timeout,
        )

    return run


@pytest.fixture
def command_here(capsys, monkeypatch):
    """Like ``command``, in this process: for what ends before it does anything."""
    main_of = {
        "vitsd-inspect": "vitsd_runtime.cli.inspect",
        "vitsd-bench": "vitsd_runtime.cli.bench",
        "vitsd-verify": "vitsd_runtime.cli.verify",
        "vitsd-release": "vitsd_runtime.cli.release",
        "vitsd-agent": "vitsd_runtime.cli.agent",
        "vitsd-predict": "vitsd_runtime.cli.predict",
        "vitsd-serve": "vitsd_runtime.cli.serve",
        "vitsd-train": "vitsd.cli.train",
        "vitsd-data": "vitsd.cli.data",
        "vitsd-evaluate": "vitsd.cli.evaluate",
        "vitsd-explain": "vitsd.cli.explain",
        "vitsd-export": "vitsd_export.cli.export",
        "vitsd-parity": "vitsd_export.cli.parity",
        "vitsd-import": "vitsd_export.cli.import_",
    }

    def run(name: str, *arguments, cwd=None):
        main = importlib.import_module(main_of[name]).main
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        if cwd is not None:
            monkeypatch.chdir(cwd)
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse leaves this way
            code = error.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
        captured = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=captured.out, stderr=captured.err)

    return run


@pytest.fixture
def untrusted(tmp_path):
    """A folder whose files have a name that would drive a terminal, and damaged or odd content.

    ``NAME`` in the arguments of a command stands for that name.
    """
    old = Path(__file__).parent / "runtime/data/schema1"
    name = str(tmp_path / UNTRUSTED_NAME)
    for suffix in (".onnx", ".keras", ".tflite"):
        source = "digits-float32.tflite" if suffix == ".tflite" else f"digits{suffix}"
        shutil.copyfile(old / source, name + suffix)
        Path(f"{name}-damaged{suffix}").write_bytes(b"x" * 100)
    Path(name).mkdir()
    named = {"model": UNTRUSTED_NAME, "engine": UNTRUSTED_NAME}
    machine = dict.fromkeys(("cpu", "system", "python"), UNTRUSTED_NAME)
    results = {
        "results": [{**named, "threads": 1, "batch_size": 1, "p50_ms": 1.0}],
        "machine": {**machine, "cores": 1, "physical_cores": 1},
    }
    Path(f"{name}.json").write_text(json.dumps(results))
    Path(f"{name}/run.json").write_text(json.dumps({"origin": {"options": {UNTRUSTED_NAME: 1}}}))
    Path(f"{name}.deep.json").write_text("[" * 100_000)

    def fill_in(*arguments: str) -> list[str]:
        return [argument.replace("NAME", name) for argument in arguments]

    return fill_in


UNTRUSTED_NAME = "a\x1b[31m\n\u202eb"
"""Colors, ends a line, reverses the direction of writing."""


@pytest.fixture
def assert_harmless():
    """A function that fails if what a command printed can drive a terminal, or is a traceback."""

    def check(done) -> None:
        printed = done.stdout + done.stderr
        assert "Traceback" not in printed
        assert all(character.isprintable() or character in "\r\n" for character in printed), printed
        assert r"a\x1b[" in printed

    return check


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
