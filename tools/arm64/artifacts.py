"""Make on this machine what is run on the emulated one: models, images, the runtime's wheel, and wheels of the engines."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitsd_export.deploy.bundle import Wheels, download
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.files import atomic_write

REPOSITORY = Path(__file__).resolve().parents[2]
GUEST = Wheels("aarch64", "3.11")
TESTS_NEED = ("pytest", "pytest-timeout", "hypothesis", "pillow")
IMAGES = 500


@dataclass(frozen=True)
class Engine:
    """An environment of its own on the device, and the models that are run there."""

    name: str
    requirements: tuple[str, ...]
    format: str
    quantizations: tuple[str, ...]
    target: str = "litert"


ENGINES = (
    Engine(
        "ai-edge-litert", ("ai-edge-litert",), "tflite", ("none", "dynamic", "int8", "int8-full")
    ),
    Engine(
        "tflite-runtime",
        ("tflite-runtime==2.14.0", "numpy<2"),
        "tflite",
        ("none", "dynamic", "int8", "int8-full"),
        "tflite-runtime-2.14",
    ),
    Engine("onnxruntime", ("onnxruntime",), "onnx", ("none", "dynamic", "int8")),
)


def digits_model(cache: Path, report: Callable[[str], None]) -> Path:
    """The preset `tiny` trained on handwritten digits; trained once for each version of the trainer."""
    sources = sorted((REPOSITORY / "vitsd" / "src").rglob("*.py"))
    folder = cache / f"trained-{_digest(*(path.read_bytes() for path in sources))}"
    if not folder.exists():
        report("Training preset tiny on handwritten digits ...")
        with atomic_write(folder) as temporary:
            trainer = Path(sys.executable).with_name("vitsd-train")
            _run(trainer, "--preset", "tiny", "--data", "digits", "--output", temporary / "digits")
    return folder / "digits" / "model.keras"


def export_for(engine: Engine, model: Path, source: str, output: Path) -> None:
    """Export ``model`` in the engine's format and quantisations."""
    exporter = Path(sys.executable).with_name("vitsd-export")
    words = [
        "--format",
        engine.format,
        "--target",
        engine.target,
        "--quantize",
        *engine.quantizations,
    ]
    _run(exporter, model, *words, "--data", source, "--output", output)


def images_of(source: str, model: Path) -> tuple[np.ndarray, np.ndarray]:
    """500 uint8 images of the model's input size, of the test set first, and their labels."""
    from vitsd.evaluation.evaluate import labelled_images, load_matching
    from vitsd_runtime import read_spec

    spec = read_spec(model)
    dataset = load_matching(source, spec)
    parts = [labelled_images(dataset, spec, split, IMAGES) for split in ("test", "train")]
    return tuple(
        np.concatenate([getattr(part, name) for part in parts])[:IMAGES]
        for name in ("images", "labels")
    )


def runtime_wheel(folder: Path) -> Path:
    """Build the runtime's wheel."""
    _run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "-w",
        folder,
        REPOSITORY / "runtime",
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def engine_wheels(engine: Engine, cache: Path, report: Callable[[str], None]) -> Path:
    """A folder with the wheels of an engine and of the tests for 64-bit Arm, downloaded once."""
    constraints = REPOSITORY / "constraints.txt"
    requirements = (*engine.requirements, *TESTS_NEED)
    folder = (
        cache
        / f"wheels-{engine.name}-{_digest(constraints.read_bytes(), repr(requirements).encode())}"
    )
    if not folder.exists():
        report(f"Downloading {engine.name} for {GUEST.platform} ...")
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            download(
                requirements[0],
                GUEST,
                temporary,
                *requirements[1:],
                "--constraint",
                str(constraints),
            )
    return folder


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]


def copy_tests(folder: Path) -> None:
    """The runtime's tests, and the sources, which some of them read."""
    for part in ("tests/runtime", "runtime/src", "vitsd/src"):
        shutil.copytree(
            REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("tests/conftest.py", "pyproject.toml"):
        shutil.copyfile(REPOSITORY / name, folder / name)


def _run(*command: Sequence) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise VitsdError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-2000:]}")
