"""One wheel and one file are enough on a device: fresh environments with nothing but the runtime and an engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "ending"),
    [
        ("ai-edge-litert", "-float32.tflite"),
        ("ai-edge-litert", "-int8.tflite"),
        ("tflite-runtime", "-float32.tflite"),
        ("onnxruntime", ".onnx"),
    ],
)
def test_a_bare_environment_predicts(exported, digits, tmp_path, tmp_path_factory, engine, ending):
    if engine == "tflite-runtime" and sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime has no wheel for this Python")
    environment = tmp_path_factory.getbasetemp() / f"bare-{engine}"
    python = environment / "bin" / "python"
    if not python.exists():
        extra = {"ai-edge-litert": "tflite", "tflite-runtime": "tflite-runtime", "onnxruntime": "onnx"}[engine]
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT / 'runtime'}[{extra}]"], check=True)
    for i in range(20):
        Image.fromarray(digits.images[i, ..., 0]).save(tmp_path / f"{i:02}.png")
    arguments = [environment / "bin" / "vitsd-predict", exported / f"digits{ending}", tmp_path, "--json", "--top-k", "1"]
    # PYTHONPATH would let the development environment in.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(arguments, capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    labels = [json.loads(line)["predictions"][0]["index"] for line in done.stdout.splitlines()]
    assert np.mean(np.array(labels) == digits.labels[:20]) > 0.8
    packages = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True).stdout.lower()
    assert "tensorflow" not in packages
    assert "keras" not in packages
