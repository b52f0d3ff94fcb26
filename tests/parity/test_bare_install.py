"""One wheel and one file are enough on a device.

Shown in fresh environments with nothing but the runtime and an engine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitsd import load_model
from vitsd.evaluation.predict import predict_logits
from vitsd_export import export
from vitsd_runtime import Classifier, read_spec

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXTRAS = {"ai-edge-litert": "tflite", "tflite-runtime": "tflite-runtime", "onnxruntime": "onnx"}
needs_tflite_runtime = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for it"
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A function from an engine's name to a runner of commands.

    The commands run in an environment with only the runtime and that engine.
    """

    def environment(engine):
        folder = tmp_path_factory.getbasetemp() / f"bare-{engine}"
        if not folder.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
            subprocess.run([*install, f"{ROOT / 'runtime'}[{EXTRAS[engine]}]"], check=True)
        # PYTHONPATH would let the development environment in.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

        def run(tool, *arguments):
            command = [folder / "bin" / tool, *map(str, arguments)]
            return subprocess.run(command, capture_output=True, text=True, env=clean)

        return run

    return environment


@pytest.mark.parametrize(
    ("engine", "ending"),
    [
        ("ai-edge-litert", "-float32.tflite"),
        ("ai-edge-litert", "-int8.tflite"),
        pytest.param("tflite-runtime", "-float32.tflite", marks=needs_tflite_runtime),
        ("onnxruntime", ".onnx"),
    ],
)
def test_a_bare_environment_predicts(exported, digits, tmp_path, bare, engine, ending):
    environment = bare(engine)
    for i in range(20):
        Image.fromarray(digits.images[i, ..., 0]).save(tmp_path / f"{i:02}.png")
    done = environment(
        "vitsd-predict", exported / f"digits{ending}", tmp_path, "--json", "--top-k", "1"
    )
    assert done.returncode == 0, done.stderr
    labels = [json.loads(line)["predictions"][0]["index"] for line in done.stdout.splitlines()]
    assert np.mean(np.array(labels) == digits.labels[:20]) > 0.8
    packages = environment("pip", "list").stdout.lower()
    assert "tensorflow" not in packages
    assert "keras" not in packages


@pytest.mark.parametrize(
    "engine", ["ai-edge-litert", pytest.param("tflite-runtime", marks=needs_tflite_runtime)]
)
def test_a_bare_environment_classifies_a_photo_with_the_bundled_model(
    photo, tmp_path, bare, engine
):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    done = bare(engine)("vitsd-predict", tmp_path / "photo.png", "--json")
    assert done.returncode == 0, done.stderr
    answers = {
        answer["label"]: answer["probability"] for answer in json.loads(done.stdout)["predictions"]
    }
    for expected in Classifier.load().predict(tmp_path / "photo.png", top_k=3)[0]:
        assert answers[expected.label] == pytest.approx(expected.probability, abs=0.05)


@needs_tflite_runtime
@pytest.mark.parametrize("quantization", ["dynamic", "int8", "int8-full"])
def test_files_for_tflite_runtime_run_there(trained, digits, tmp_path, bare, quantization):
    (artifact,) = export(
        trained / "model.keras",
        "tflite",
        quantization,
        tmp_path / "out",
        target="tflite-runtime-2.14",
    )
    assert artifact.spec.export.target == "tflite-runtime-2.14"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(100):
        Image.fromarray(digits.images[i, ..., 0]).save(pictures / f"{i:03}.png")
    done = bare("tflite-runtime")(
        "vitsd-predict", artifact.path, pictures, "--json", "--top-k", "1"
    )
    assert done.returncode == 0, done.stderr
    labels = np.array(
        [json.loads(line)["predictions"][0]["index"] for line in done.stdout.splitlines()]
    )
    keras = predict_logits(load_model(trained / "model.keras")[0], digits.images[:100]).argmax(
        axis=1
    )
    assert np.mean(labels == keras) >= 0.97


@needs_tflite_runtime
def test_an_operation_that_an_engine_refuses_is_named_with_the_way_out(
    exported, digits, tmp_path, bare
):
    Image.fromarray(digits.images[0, ..., 0]).save(tmp_path / "a.png")
    done = bare("tflite-runtime")(
        "vitsd-predict", exported / "digits-dynamic.tflite", tmp_path / "a.png"
    )
    assert done.returncode == 1
    assert "FULLY_CONNECTED" in done.stderr
    assert "install ai-edge-litert" in done.stderr
    assert "Traceback" not in done.stderr


@needs_tflite_runtime
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.9])
def test_a_cut_off_file_does_not_crash_the_engine_that_does_not_check(
    artifact, tmp_path, bare, keep
):
    # With --spec the file is used although its own spec is gone; tflite-runtime would read beyond
    # its end.
    path = artifact("-float32.tflite")
    (tmp_path / "spec.json").write_text(read_spec(path).to_json())
    os.truncate(path, int(keep * path.stat().st_size))
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    done = bare("tflite-runtime")(
        "vitsd-predict", path, tmp_path / "a.png", "--spec", tmp_path / "spec.json"
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "cut off" in done.stderr
