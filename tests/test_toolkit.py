"""Installing from the root of the repository installs the three distributions, once."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def pip(python, *words):
    command = [python, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_toolkit_has_no_files_but_all_extras(tmp_path):
    pip(sys.executable, "wheel", "--no-deps", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("vitsd_toolkit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        message = Parser().parsestr(archive.read(metadata).decode())
    assert all(".dist-info/" in name for name in names)
    required = [line for line in message.get_all("Requires-Dist") if "extra" not in line]
    names = sorted(line.split()[0] for line in required)
    assert names == ["vitsd", "vitsd-export", "vitsd-runtime"]
    extras = set(message.get_all("Provides-Extra"))
    assert {"tflite", "onnx", "tensorflow", "jax", "digits", "hub"} <= extras


def test_it_installs_in_a_fresh_environment(tmp_path):
    folder = tmp_path / "env"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    # What the three need from elsewhere is here already: only they are installed.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    pip(python, "install", f"{ROOT}[digits]")
    installed = {path.name for path in packages.iterdir()}
    assert {"vitsd", "vitsd_runtime", "vitsd_export"} <= installed
    shown = subprocess.run([folder / "bin" / "vitsd-predict", "--version"], capture_output=True)
    assert shown.stdout.startswith(b"vitsd_runtime ")
    copies = list(packages.rglob("classifier.py"))
    assert [path.parent.name for path in copies if "vitsd" in str(path)] == ["vitsd_runtime"]
