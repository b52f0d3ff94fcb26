"""The lowest versions that are tested are those of pyproject.toml."""

import importlib
from pathlib import Path

import pytest

from vitsd_runtime import UsageError

ROOT = Path(__file__).parents[2]

PROJECT = """
[project]
dependencies = ["vitsd-runtime>=0.1", "numpy>={numpy}", "pillow>=10.3"]
[project.optional-dependencies]
old = ["tflite-runtime>=2.14", "numpy<2"]
fast = ["jax[cpu]>=0.4.30"]
free = ["{free}"]
"""


@pytest.fixture
def lowest(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("tools.lowest")
    for folder, numpy in (("runtime", "1.9"), ("vitsd", "1.26")):
        (tmp_path / folder).mkdir()
        text = PROJECT.format(numpy=numpy, free="scipy")
        (tmp_path / folder / "pyproject.toml").write_text(text)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    return module.lowest


def test_floors_become_versions(lowest):
    expected = ["numpy==1.9", "pillow==10.3", "tflite-runtime==2.14"]
    assert lowest({"runtime": ("old",)}) == expected
    assert "jax==0.4.30" in lowest({"runtime": ("fast",)})


def test_of_several_floors_the_highest_counts(lowest):
    assert "numpy==1.26" in lowest({"runtime": (), "vitsd": ()})


def test_a_requirement_without_a_floor_is_an_error(lowest):
    with pytest.raises(UsageError, match="names no floor: scipy"):
        lowest({"runtime": ("free",)})


def test_every_requirement_of_ours_has_a_floor(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("tools.lowest")
    for environment in module.ENVIRONMENTS.values():
        assert module.lowest(environment.extras)
