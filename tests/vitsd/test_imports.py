"""Importing our modules changes nothing in the process, and the trainer's API is one list."""

import ast
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import vitsd

SCRIPT = """
import contextlib, importlib, json, logging, os, pkgutil, random, sys

# What other libraries do when they are imported is theirs.
for name in sys.argv[2:]:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
import matplotlib
import numpy as np

def state():
    files = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            files[number] = os.readlink(f"/proc/self/fd/{number}")
    legacy = np.random.get_state()
    return {
        "matplotlib's backend": matplotlib.get_backend(auto_select=False),
        "Python's generator": random.getstate(),
        "NumPy's generator": (legacy[1].tolist(), *legacy[2:]),
        "environment": dict(os.environ),
        "root logger": (len(logging.getLogger().handlers), logging.getLogger().level),
        "tf2onnx's logger": logging.getLogger("tf2onnx").level,
        "open files": {k: v for k, v in files.items() if not v.startswith("/proc/")},
    }

matplotlib.use("svg")
before = state()
package = importlib.import_module(sys.argv[1])
names = [package.__name__]
names += [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
after = state()
changed = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
print(json.dumps({"modules": len(names), "changed": changed}))
"""
OTHERS = (
    "tensorflow",
    "keras",
    "matplotlib.figure",
    "PIL.Image",
    "tqdm",
    "h5py",
    "sklearn.datasets",
    "huggingface_hub",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "ai_edge_litert.interpreter",
    "ai_edge_quantizer.quantizer",
)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["vitsd_runtime", "vitsd", "vitsd_export"])
def test_importing_a_module_changes_no_global_state(package):
    pytest.importorskip(package)
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are told by Linux' /proc")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, package, *OTHERS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["modules"] > 20
    assert report["changed"] == {}


def test_the_public_names_are_the_same_for_python_and_for_type_checkers():
    tree = ast.parse(Path(vitsd.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    for_checkers = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(for_checkers) == sorted(vitsd.__all__)
    for name, module in for_checkers.items():
        assert getattr(vitsd, name) is getattr(sys.modules[module], name)
        assert name in dir(vitsd)
    with pytest.raises(AttributeError, match="nothing"):
        _ = vitsd.nothing


def test_the_version_is_that_of_the_installed_distribution():
    assert vitsd.__version__ == version("vitsd")
