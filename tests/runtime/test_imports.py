"""The runtime stands on the ground floor, and importing it costs nearly nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "tensorflow",
    "keras",
    "PIL",
    "ai_edge_litert",
    "tflite_runtime",
    "onnxruntime",
    "openvino",
    "onnx",
    "vitsd",
    "vitsd_export",
}


def test_importing_the_runtime_loads_no_engine():
    code = "import sys, vitsd_runtime; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert "numpy" in loaded
    assert not loaded & HEAVY


def test_importing_vitsd_does_not_load_a_backend():
    pytest.importorskip("vitsd.presets")
    code = (
        "import sys, vitsd, vitsd.presets, vitsd.data.dataset; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert not loaded & {"tensorflow", "keras", "jax", "torch", "vitsd_export"}


ALLOWED = {
    "vitsd/training/distribution.py": {"jax"},  # processes find each other through JAX alone
    "vitsd/evaluation/predict.py": {"jax"},  # Keras has no compiled call that threads may share
}


@pytest.mark.parametrize(
    ("distribution", "forbidden"),
    [
        ("runtime/src", {"vitsd", "vitsd_export", "keras", "onnx_tf"}),
        ("vitsd/src", {"vitsd_export", "tensorflow", "jax", "torch"}),
    ],
)
def test_no_module_imports_upwards(distribution, forbidden):
    files = list((ROOT / distribution).rglob("*.py"))
    assert files
    for file in files:
        place = file.relative_to(ROOT / distribution).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            found = {name.split(".")[0] for name in names} & forbidden
            assert not found - ALLOWED.get(place, set()), f"{file}: {names}"


def test_the_runtime_is_valid_for_python_3_9():
    for file in (ROOT / "runtime/src").rglob("*.py"):
        ast.parse(file.read_text(), feature_version=(3, 9))
