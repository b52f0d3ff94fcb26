"""``make test-lowest``: the tests of loading and running, with the lowest versions that we allow.

The floors are those of the ``pyproject.toml`` files, the only place where they stand: ``>=`` is
turned into ``==``. The models come from this environment, so new files meet old engines.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.arm64 import artifacts
from tools.arm64.artifacts import REPOSITORY, Engine
from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError, VitsdError

_FLOOR = re.compile(r"(?P<name>[\w.\-]+)(\[[\w,]+\])?>=(?P<version>[\d.]+)")
_OURS = ("vitsd", "vitsd-runtime", "vitsd-export")
_TESTS_NEED = ("pytest", "pytest-timeout", "hypothesis")
_log = logging.getLogger("vitsd.tools.lowest")


class Environment(NamedTuple):
    """What is installed together, and what is tried there."""

    extras: dict[str, tuple[str, ...]]
    """Of each distribution; the lowest versions of its dependencies are installed too."""
    tests: tuple[str, ...]
    target: str = "litert"
    """Of the exported files."""


ENVIRONMENTS = {
    "litert": Environment({"runtime": ("litert", "onnx")}, ("tests/runtime",)),
    "tflite-runtime": Environment(
        {"runtime": ("tflite-runtime",)}, ("tests/runtime",), "tflite-runtime-2.14"
    ),
    "trainer": Environment(
        {"runtime": ("tensorflow",), "vitsd": ("tensorflow", "digits", "hub")},
        ("tests/runtime/engines", "tests/vitsd/model", "tests/vitsd/hub"),
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="lowest", description="Test with the lowest versions that pyproject.toml allows."
    )
    add = parser.add_argument
    add("--only", choices=ENVIRONMENTS, help="one of the environments (default: all)")
    add("--python", default=sys.executable, help="that makes the environments (default: this one)")
    add(
        "--cache",
        type=Path,
        default=Path(".venv-lowest"),
        metavar="DIR",
        help="for environments and models (default: .venv-lowest)",
    )
    add("--list", action="store_true", help="print the versions, and do nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-runtime")


def _main(arguments: argparse.Namespace) -> int:
    names = [arguments.only] if arguments.only else list(ENVIRONMENTS)
    if arguments.list:
        for name in names:
            print(f"{name}: {' '.join(lowest(ENVIRONMENTS[name].extras))}")
        return 0
    cache = arguments.cache.resolve()
    model = artifacts.digits_model(cache, seed=0)
    failed = [name for name in names if not _test(name, model, cache, arguments.python)]
    for name in names:
        print(f"{name}: {'FAILED' if name in failed else 'passed'}")
    return 1 if failed else 0


def lowest(extras: dict[str, tuple[str, ...]]) -> list[str]:
    """``["numpy==1.23.2", ...]``: the lowest versions that distributions and their extras allow.

    Where several name the same package, the highest of their floors.
    """
    floors: dict[str, str] = {}
    for folder, chosen in extras.items():
        for name, version in _floors(folder, chosen):
            floors[name] = max(floors.get(name, "0"), version, key=_numbers)
    return [f"{name}=={version}" for name, version in sorted(floors.items())]


def _floors(folder: str, extras: Sequence[str]) -> Iterator[tuple[str, str]]:
    text = (REPOSITORY / folder / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    for requirement in requirements:
        floor = _FLOOR.match(requirement)
        if floor and floor["name"] not in _OURS:
            yield floor["name"], floor["version"]
        elif not floor and not re.match(r"[\w\-]+<", requirement):
            raise UsageError(f"{folder}/pyproject.toml names no floor: {requirement}.")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _test(name: str, model: Path, cache: Path, python: str) -> bool:
    environment = ENVIRONMENTS[name]
    files = _make_files(environment.target, model, cache)
    _log.info("%s: installing %s ...", name, " ".join(lowest(environment.extras)))
    own = _install(cache / name, python, environment.extras)
    _log.info("%s: %s ...", name, " ".join(environment.tests))
    options = ("-p", "no:cacheprovider", "-rf")
    done = subprocess.run(
        [own, "-m", "pytest", *options, *environment.tests],
        cwd=REPOSITORY,
        env={**os.environ, "VITSD_TEST_ARTIFACTS": str(files)},
    )
    return done.returncode == 0


def _make_files(target: str, model: Path, cache: Path) -> Path:
    """The folder that tests/conftest.py reads where nothing can be trained: see there."""
    folder = cache / f"files-{target}-{model.parents[1].name}"
    if not (folder / "digits.npz").exists():
        _log.info("Exporting for %s ...", target)
        for format in ("tflite", "onnx", "saved_model"):
            engine = Engine("", (), format, ("none", "dynamic", "int8", "int8-full"), target)
            artifacts.export_for(engine, model, "digits", folder / "exported")
        (folder / "model.keras").write_bytes(model.read_bytes())
        images, labels = artifacts.load_images("digits", model)
        np.savez(folder / "digits.npz", images=images, labels=labels)
    return folder


def _install(folder: Path, python: str, extras: dict[str, tuple[str, ...]]) -> Path:
    """An environment of our sources and the lowest versions; returns its Python."""
    own = folder / "bin" / "python"
    ours = [f"{REPOSITORY / name}[{','.join(chosen)}]" for name, chosen in extras.items()]
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        print(*lowest(extras), sep="\n", file=constraints, flush=True)
        wanted = [word for path in ours for word in ("-e", path)]
        for words in (
            (python, "-m", "venv", folder),
            (own, *pip, "-c", constraints.name, *wanted, *_TESTS_NEED),
        ):
            if subprocess.run([str(word) for word in words]).returncode:
                raise VitsdError(f"{' '.join(lowest(extras))} can't be installed by {python}.")
    return own


if __name__ == "__main__":
    sys.exit(main())
