"""Importing the exporter changes nothing for the program that imports it."""

import json
import logging
import subprocess
import sys

CODE = """
import importlib, json, logging, os, pkgutil
import matplotlib
matplotlib.use("svg")
import ai_edge_quantizer.quantizer, keras, onnxruntime, tensorflow, tf2onnx  # not ours
before = dict(os.environ)
import vitsd_export
for module in pkgutil.walk_packages(vitsd_export.__path__, "vitsd_export."):
    importlib.import_module(module.name)
from matplotlib import rcParams
print(json.dumps({
    "backend": rcParams["backend"],
    "handlers": len(logging.getLogger().handlers),
    "level": logging.getLogger().level,
    "environment": sorted(k for k in os.environ if before.get(k) != os.environ[k]),
    "tf2onnx": logging.getLogger("tf2onnx").level,
}))
"""
BARE = "import sys, vitsd_export; print(*{name.split('.')[0] for name in sys.modules})"


def run(code):
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_no_module_changes_global_state():
    found = json.loads(run(CODE).splitlines()[-1])
    assert found["backend"] == "svg"
    assert found["handlers"] == 0
    assert (found["level"], found["tf2onnx"]) == (logging.WARNING, logging.NOTSET)
    assert found["environment"] == []


def test_importing_the_package_loads_no_converter():
    loaded = set(run(BARE).split())
    assert "vitsd_export" in loaded
    assert not loaded & {"tensorflow", "keras", "onnx", "onnxruntime", "matplotlib", "numpy"}
