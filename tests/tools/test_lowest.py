"""The lowest versions that are tested are those of pyproject.toml."""

import importlib
from pathlib import Path

import pytest

from vitsd_runtime import UsageError

ROOT = Path(__file__).parents[2]

PROJECT = """
[project]
requires-python = ">={python}"
dependencies = ["vitsd-runtime>=0.1", "numpy>={numpy}", "pillow>=10.3"]
[project.optional-dependencies]
old = ["tflite-runtime>=2.14", "numpy<2"]
fast = ["jax[cpu]>=0.4.30"]
free = ["{free}"]
"""


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("tools.lowest")


@pytest.fixture
def projects(monkeypatch, tmp_path, tool):
    """Two, which ask for different versions."""
    for folder, numpy, python in (("runtime", "1.9", "3.9"), ("vitsd", "1.26", "3.10")):
        (tmp_path / folder).mkdir()
        text = PROJECT.format(numpy=numpy, python=python, free="scipy")
        (tmp_path / folder / "pyproject.toml").write_text(text)
    monkeypatch.setattr(tool, "REPOSITORY", tmp_path)


def test_floors_become_versions(tool, projects):
    expected = ["numpy==1.9", "pillow==10.3", "tflite-runtime==2.14"]
    assert tool.lowest({"runtime": ("old",)}) == expected
    assert "jax==0.4.30" in tool.lowest({"runtime": ("fast",)})


def test_of_several_floors_the_highest_counts(tool, projects):
    assert "numpy==1.26" in tool.lowest({"runtime": (), "vitsd": ()})
    assert tool.lowest_python(["runtime"]) == "3.9"
    assert tool.lowest_python(["runtime", "vitsd"]) == "3.10"


def test_a_requirement_without_a_floor_is_an_error(tool, projects):
    with pytest.raises(UsageError, match="names no floor: scipy"):
        tool.lowest({"runtime": ("free",)})


def test_every_requirement_of_ours_has_a_floor(tool, capsys):
    assert tool.main(["--list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == list(tool.ENVIRONMENTS)
    assert all(": python==3." in line and " numpy==" in line for line in printed)


def test_what_is_not_the_lowest_is_named(tool):
    wanted = ["numpy==1.26", "keras==3.6"]
    assert tool.not_lowest(wanted, {"numpy": "1.26.0", "keras": "3.6"}) == []
    installed = {"numpy": "1.26.4", "keras": "3.60"}
    assert tool.not_lowest(wanted, installed) == [
        "numpy is 1.26.4, not 1.26",
        "keras is 3.60, not 3.6",
    ]


@pytest.mark.parametrize("program", ["/nowhere/python", "true"])
def test_a_python_of_no_use_is_refused_before_anything_is_made(tool, tmp_path, capsys, program):
    cache = tmp_path / "cache"
    assert tool.main(["--python", program, "--cache", str(cache)]) == 2
    assert "needs Python 3.9 to 3.11: name one with --python" in capsys.readouterr().err
    assert not cache.exists()


@pytest.mark.parametrize(("skipped", "expected"), [(50, True), (51, False)])
def test_where_nearly_all_was_skipped_nothing_was_tested(tool, tmp_path, skipped, expected):
    report = tmp_path / "report.xml"
    report.write_text(f'<testsuites><testsuite tests="100" skipped="{skipped}"/></testsuites>')
    assert tool.most_ran(report) is expected
