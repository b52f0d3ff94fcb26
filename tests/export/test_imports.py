"""Importing the exporter loads no converter."""

import subprocess
import sys

CODE = "import sys, vitsd_export; print(*{name.split('.')[0] for name in sys.modules})"


def test_importing_the_package_loads_no_converter():
    words = [sys.executable, "-c", CODE]
    loaded = set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert "vitsd_export" in loaded
    assert not loaded & {"tensorflow", "keras", "onnx", "onnxruntime", "matplotlib", "numpy"}
