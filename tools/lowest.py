"""``make test-lowest``: the tests of loading and running, with the lowest versions that we allow.

The floors are those of the ``pyproject.toml`` files, the only place where they stand: ``>=`` is
turned into ``==``, for Python too. The models come from this environment, so new files meet old
engines.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

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
from vitsd_runtime.types import Format, Quantization

_FLOOR = re.compile(r"(?P<name>[\w.\-]+)(\[[\w,]+\])?>=(?P<version>[\d.]+)")
_OURS = ("vitsd", "vitsd-runtime", "vitsd-export")
_TESTS_NEED = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "httpx")
_NEWEST_PYTHON = "3.11"
"""For which the lowest NumPy, TensorFlow and tflite-runtime have wheels."""
_QUANTIZATIONS: Mapping[Format, tuple[Quantization, ...]] = {
    "tflite": ("none", "dynamic", "int8", "int8-full"),
    "onnx": ("none", "dynamic", "int8"),
    "saved_model": ("none",),
}
_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"
_VERSIONS = (
    "import json, sys; from importlib.metadata import version; "
    "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
)
_log = logging.getLogger("vitsd.tools.lowest")


class Environment(NamedTuple):
    """What is installed together, and what is tried there."""

    extras: Mapping[str, tuple[str, ...]]
    """Of each distribution; the lowest versions of its dependencies are installed too."""
    tests: tuple[str, ...]
    formats: tuple[Format, ...]
    """That it runs."""
    target: str = "litert"
    """Of the files in these formats."""


ENVIRONMENTS = {
    "litert": Environment(
        {"runtime": ("litert", "onnx", "camera", "serve", "release")},
        ("tests/runtime",),
        formats=("tflite", "onnx"),
    ),
    "tflite-runtime": Environment(
        {"runtime": ("tflite-runtime", "serve", "release")},
        ("tests/runtime",),
        formats=("tflite",),
        target="tflite-runtime-2.14",
    ),
    "trainer": Environment(
        {"runtime": ("tensorflow",), "vitsd": ("tensorflow", "digits", "hub")},
        ("tests/runtime/engines", "tests/vitsd/model", "tests/vitsd/hub"),
        formats=("saved_model",),
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="lowest", description="Test with the lowest versions that pyproject.toml allows."
    )
    add = parser.add_argument
    add("--only", choices=ENVIRONMENTS, help="one of the environments (default: all)")
    add(
        "--python",
        help="that makes the environments (default: the lowest allowed, as python3.9, if PATH "
        f"has it, else this one; at most {_NEWEST_PYTHON}, for old wheels)",
    )
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
            extras = ENVIRONMENTS[name].extras
            print(f"{name}: {' '.join([f'python=={lowest_python(extras)}', *lowest(extras)])}")
        return 0
    cache = arguments.cache.resolve()
    # What may be missing on this machine comes first, what takes minutes last.
    pythons = {name: _find_python(name, arguments.python) for name in names}
    environments = {name: _install(name, pythons[name], cache) for name in names}
    model = artifacts.digits_model(cache, seed=0)
    files = {name: _make_files(name, model, cache) for name in names}
    failed = [name for name in names if not _test(name, environments[name], files[name])]
    for name in names:
        print(f"{name}: {'FAILED' if name in failed else 'passed'}")
    return 1 if failed else 0


def lowest(extras: Mapping[str, Sequence[str]]) -> list[str]:
    """``["numpy==1.23.2", ...]``: the lowest versions that distributions and their extras allow.

    Where several name the same package, the highest of their floors.
    """
    floors: dict[str, str] = {}
    for folder, chosen in extras.items():
        for name, version in _floors(folder, chosen):
            floors[name] = max(floors.get(name, "0"), version, key=_numbers)
    return [f"{name}=={version}" for name, version in sorted(floors.items())]


def lowest_python(folders: Iterable[str]) -> str:
    """``"3.9"``: the lowest Python that distributions allow."""
    wanted: list[str] = [
        _project(folder)["requires-python"].removeprefix(">=") for folder in folders
    ]
    return max(wanted, key=_numbers)


def not_lowest(wanted: Sequence[str], installed: Mapping[str, str]) -> list[str]:
    """``["numpy is 2.0.1, not 1.23.2"]``: what is installed in another version than wanted."""
    pairs = (requirement.split("==") for requirement in wanted)
    return [
        f"{name} is {installed[name]}, not {version}"
        for name, version in pairs
        if _release(installed[name]) != _release(version)
    ]


def most_ran(report: Path) -> bool:
    """Whether more tests ran than were skipped: with the wrong files, nearly all would be."""
    (suite,) = ElementTree.parse(report).getroot()
    count, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    if 2 * skipped > count:
        _log.warning("%d of %d tests were skipped.", skipped, count)
    return 2 * skipped <= count


def _floors(folder: str, extras: Sequence[str]) -> Iterator[tuple[str, str]]:
    project = _project(folder)
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    for requirement in requirements:
        floor = _FLOOR.match(requirement)
        if floor and floor["name"] not in _OURS:
            yield floor["name"], floor["version"]
        elif not floor and not re.match(r"[\w\-]+<", requirement):
            raise UsageError(f"{folder}/pyproject.toml names no floor: {requirement}.")


def _project(folder: str) -> dict[str, Any]:
    text = (REPOSITORY / folder / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _release(version: str) -> str:
    """Without the zeros at its end: 1.26 and 1.26.0 are the same."""
    return re.sub(r"(\.0)+$", "", version)


def _find_python(name: str, chosen: str | None) -> str:
    """The chosen Python, else the lowest that is here; it must be one for which all has wheels."""
    floor = lowest_python(ENVIRONMENTS[name].extras)
    for python in [chosen] if chosen else [f"python{floor}", sys.executable]:
        version = _python_version(python)
        if version and _numbers(floor) <= _numbers(version) <= _numbers(_NEWEST_PYTHON):
            if version != floor:
                _log.info("%s: with Python %s; the lowest is %s.", name, version, floor)
            return python
    raise UsageError(f"{name} needs Python {floor} to {_NEWEST_PYTHON}: name one with `python`.")


def _python_version(python: str) -> str | None:
    try:
        done = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None  # commands of pyenv may exist, and run nothing


def _install(name: str, python: str, cache: Path) -> Path:
    """An environment of our sources and the lowest versions; returns its Python."""
    extras = ENVIRONMENTS[name].extras
    wanted = lowest(extras)
    own, done = cache / name / "bin" / "python", cache / name / "installed.txt"
    description = "\n".join([python, *wanted])
    if not done.exists() or done.read_text() != description:
        _log.info("%s: installing %s ...", name, " ".join(wanted))
        ours = [f"{REPOSITORY / folder}[{','.join(chosen)}]" for folder, chosen in extras.items()]
        # Nothing is compiled: that would take long, and fail.
        pip = ("pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            print(*wanted, sep="\n", file=constraints, flush=True)
            editable = [word for path in ours for word in ("-e", path)]
            for words in (
                (python, "-m", "venv", "--clear", cache / name),
                (own, "-m", *pip, "-c", constraints.name, *editable, *_TESTS_NEED),
            ):
                if subprocess.run([str(word) for word in words], env=_environ()).returncode:
                    raise VitsdError(f"{' '.join(wanted)} can't be installed by {python}.")
        done.write_text(description)
    names = [requirement.partition("==")[0] for requirement in wanted]
    shown = subprocess.check_output([own, "-c", _VERSIONS, *names], env=_environ(), text=True)
    wrong = not_lowest(wanted, json.loads(shown))
    if wrong:
        raise VitsdError(f"The environment of {name} is not the lowest: {', '.join(wrong)}.")
    return own


def _environ() -> dict[str, str]:
    """The environment variables without those that let packages from elsewhere in."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PYTHONNOUSERSITE": "1",
    }


def _make_files(name: str, model: Path, cache: Path) -> Path:
    """The folder that tests/conftest.py reads where nothing can be trained: see there."""
    environment = ENVIRONMENTS[name]
    folder = cache / f"files-{name}-{model.parents[1].name}"
    if not (folder / "digits.npz").exists():
        _log.info("%s: exporting ...", name)
        for format in environment.formats:
            quantizations = _QUANTIZATIONS[format]
            engine = Engine(name, (), format, quantizations, environment.target)
            artifacts.export_for(engine, model, "digits", folder / "exported")
        shutil.copytree(model.parent, folder, dirs_exist_ok=True)
        images, labels = artifacts.load_images("digits", model)
        np.savez(folder / "digits.npz", images=images, labels=labels)
    return folder


def _test(name: str, python: Path, files: Path) -> bool:
    tests = ENVIRONMENTS[name].tests
    _log.info("%s: %s ...", name, " ".join(tests))
    report = files / "report.xml"
    options = ("-p", "no:cacheprovider", "-rf", "-n", "2", f"--junit-xml={report}")
    done = subprocess.run(
        [python, "-m", "pytest", *options, *tests],
        cwd=REPOSITORY,
        env={**_environ(), "VITSD_TEST_ARTIFACTS": str(files)},
    )
    return done.returncode == 0 and most_ran(report)


if __name__ == "__main__":
    sys.exit(main())
