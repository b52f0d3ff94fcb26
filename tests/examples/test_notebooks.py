"""The notebooks run from top to bottom, and are kept without outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CHECKS = {
    "own_photos": """
assert results["top1"] > 0.9
assert artifact.path.suffix == ".tflite" and artifact.path.is_relative_to(work)
assert artifact.spec.export.quantization == "int8" and parity.passed
assert classifier.predict(photo, top_k=1)[0][0].label == "3" == explanation.labels[0]
""",
}
"""What must be true after the last cell, by notebook."""


def cells(name: str, kind: str) -> list[dict]:
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_every_notebook_is_run_by_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_notebooks_hold_no_outputs(name):
    for cell in cells(name, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_notebooks_run_from_top_to_bottom(name, tmp_path):
    sources = ["".join(cell["source"]) for cell in cells(name, "code")]
    program = tmp_path / "program.py"
    program.write_text("\n\n".join([*sources, CHECKS[name]]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        # TMPDIR: the notebook works in a temporary folder
        env={**os.environ, "MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-5000:]
