"""Make on this machine what the emulated one gets: models, images, wheels, tests."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vitsd_export.deploy.wheels import DevicePlatform, download
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats import require_spec
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.types import AnyArray, Format, PathLike, Quantization, UInt8Array

REPOSITORY = Path(__file__).resolve().parents[2]
GUEST = DevicePlatform("aarch64", "3.11")
"""Debian bookworm's Python."""
TESTS_NEED = ("pytest", "pytest-timeout", "hypothesis", "pillow")
IMAGES = 500
"""On which logits are compared."""
PICTURES = 5
"""Image files that ``vitsd-predict`` classifies."""
_COPIED_FOLDERS = ("tests/runtime", "runtime/src", "vitsd/src", "tools/serving")
_COPIED_FILES = ("tests/conftest.py", "tools/__init__.py", "pyproject.toml")
_log = logging.getLogger("vitsd.tools.arm64")


@dataclass(frozen=True)
class Engine:
    """An environment of its own on the device, and the files that are run there."""

    name: str
    requirements: tuple[str, ...]
    format: Format
    quantizations: tuple[Quantization, ...]
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


@dataclass(frozen=True)
class Materials:
    """What this machine makes before anything is emulated; all but the models is in ``work``."""

    work: Path
    """Folder that the guest sees as /work."""
    digits: Path
    """The preset ``tiny``, trained on handwritten digits."""
    models: Mapping[str, Path]
    """The trained models whose logits are compared, by the names of their folders."""
    data: str
    """Their dataset."""
    images: UInt8Array
    """``(n, *input_size)``; the first :data:`PICTURES` are also PNG files in ``pictures/``."""
    wheel: Path
    """Of the runtime."""


def prepare(
    work: Path, cache: Path, model: Path | None, data: str, seeds: Sequence[int]
) -> Materials:
    """Make them.

    Args:
        work: folder that the guest sees as /work.
        cache: for trained models.
        model: whose logits are compared; None: those of models trained on digits.
        data: its dataset.
        seeds: of the models trained on digits.
    """
    models = {"model": model} if model else {f"seed-{n}": digits_model(cache, n) for n in seeds}
    digits = digits_model(cache, seeds[0])
    images, _ = load_images(data, model or digits)
    np.save(work / "images.npy", images)
    pictures = work / "pictures"
    pictures.mkdir()
    for i, image in enumerate(images[:PICTURES]):
        Image.fromarray(image.squeeze()).save(pictures / f"{i}.png")
    shutil.copyfile(Path(__file__).with_name("guest.py"), work / "guest.py")
    copy_tests(work / "repository")
    return Materials(work, digits, models, data, images, runtime_wheel(work))


def digits_model(cache: Path, seed: int) -> Path:
    """The preset ``tiny`` trained on handwritten digits, once for each version of the trainer."""
    sources = sorted((REPOSITORY / "vitsd" / "src").rglob("*.py"))
    folder = cache / f"trained-{_digest(*(path.read_bytes() for path in sources))}-{seed}"
    if not folder.exists():
        _log.info("Training preset tiny on handwritten digits, seed %d ...", seed)
        with atomic_write(folder) as temporary:
            options = ("--preset", "tiny", "--data", "digits", "--seed", str(seed))
            _run_command("vitsd-train", *options, "--output", temporary / "digits")
    return folder / "digits" / "model.keras"


def export_for(engine: Engine, model: Path, data: str, output: Path) -> None:
    """Export ``model`` in the engine's format and quantizations."""
    _run_command(
        "vitsd-export",
        model,
        *("--format", engine.format, "--target", engine.target),
        *("--quantization", *engine.quantizations),
        *("--data", data, "--output", output),
    )


def load_images(data: str, model: Path) -> tuple[UInt8Array, AnyArray]:
    """500 uint8 images of the model's input size, of the test set first, and their labels."""
    from vitsd.evaluation.evaluate import labeled_images, load_matching

    spec = require_spec(model)
    dataset = load_matching(data, spec)
    parts = [labeled_images(dataset, spec, split, IMAGES) for split in ("test", "train")]
    images = np.concatenate([part.images for part in parts])[:IMAGES]
    return images, np.concatenate([part.labels for part in parts])[:IMAGES]


def runtime_wheel(folder: Path) -> Path:
    """Build the runtime's wheel."""
    options = ("--quiet", "--no-deps", "-w", folder)
    _run(sys.executable, "-m", "pip", "wheel", *options, REPOSITORY / "runtime")
    (wheel,) = folder.glob("*.whl")
    return wheel


def engine_wheels(engine: Engine, cache: Path) -> Path:
    """A folder with the wheels of an engine and of the tests for 64-bit Arm, downloaded once."""
    constraints = REPOSITORY / "constraints.txt"
    requirements = (*engine.requirements, *TESTS_NEED)
    key = _digest(constraints.read_bytes(), repr(requirements).encode())
    folder = cache / f"wheels-{engine.name}-{key}"
    if not folder.exists():
        _log.info("Downloading %s for %s ...", engine.name, GUEST.machine)
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            download(requirements, GUEST, temporary, constraints)
    return folder


def copy_tests(folder: Path) -> None:
    """Copy the runtime's tests, and the sources, which some of them read."""
    for name in _COPIED_FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignore)
    for name in _COPIED_FILES:
        shutil.copyfile(REPOSITORY / name, folder / name)


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]


def _run_command(name: str, *arguments: PathLike) -> None:
    """Run one of our commands, as installed beside this Python."""
    _run(Path(sys.executable).with_name(name), *arguments)


def _run(*command: PathLike) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise VitsdError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-2000:]}")
