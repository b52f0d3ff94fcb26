"""OpenVINO runs the .onnx files that onnxruntime runs, and gives the same answers."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vitsd_runtime import Classifier, VitsdError
from vitsd_runtime.engines import load, load_engine
from vitsd_runtime.engines.openvino import OpenVinoEngine

openvino = pytest.importorskip("openvino")

MODEL = Path(__file__).parents[1] / "data" / "schema1" / "digits.onnx"


def images_for(engine):
    shape = (11, *engine.input_shape)
    return np.random.default_rng(0).normal(size=shape).astype(engine.input_dtype)


@pytest.fixture
def images():
    return images_for(OpenVinoEngine(MODEL, num_threads=1, batch_size=1))


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_it_answers_as_onnxruntime_does(images, batch_size, num_threads):
    pytest.importorskip("onnxruntime")
    expected = load_engine(MODEL, "onnx").run(images)
    engine = OpenVinoEngine(MODEL, num_threads, batch_size)
    for count in (1, 3, len(images)):
        logits = engine.run(images[:count])
        assert logits.dtype == np.float32
        # With bfloat16, OpenVINO's default on CPUs that have it, they differ by 0.1.
        np.testing.assert_allclose(logits, expected[:count], atol=2e-4 * expected.std())


@pytest.mark.parametrize(
    ("ending", "tolerance"),
    [(".onnx", 2e-4), ("-int8.onnx", 0.45)],  # as for the same file on another engine
)
def test_exports_agree_with_onnxruntime(exported_model, ending, tolerance):
    pytest.importorskip("onnxruntime")
    path = exported_model(ending)
    engine = OpenVinoEngine(path, 1, 4)
    images = images_for(engine)
    expected = load_engine(path, "onnx").run(images)
    assert np.abs(engine.run(images) - expected).max() <= tolerance * expected.std()


def test_it_is_chosen_by_name_beside_onnxruntime(exported_model):
    pytest.importorskip("onnxruntime")
    path = exported_model(".onnx")
    chosen = {
        backend: Classifier.load(path, num_threads=1, backend=backend)
        for backend in (None, "onnxruntime", "openvino")
    }
    names = [classifier.engine.name.split()[0] for classifier in chosen.values()]
    assert names == ["onnxruntime", "onnxruntime", "openvino"]
    # It travels.
    assert pickle.loads(pickle.dumps(chosen["openvino"])).engine.name.startswith("openvino ")
    tried = Classifier.load(path, backend="openvino", allow_any_operation=True)
    assert tried.engine.name.startswith("openvino ")


def test_bfloat16_is_rounded_to_or_refused(images):
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(VitsdError, match="use `backend=openvino`"):
            load_engine(MODEL, "onnx", backend="openvino-bf16")
        return
    exact = OpenVinoEngine(MODEL, 1, 16).run(images)
    rounded = load_engine(MODEL, "onnx", 1, 16, backend="openvino-bf16").run(images)
    assert 1e-4 < np.abs(rounded - exact).max() / exact.std() < 0.3


def test_it_runs_a_model_where_onnxruntime_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert load_engine(MODEL, "onnx").name.startswith("openvino ")


def test_content_runs_like_the_file_and_is_described(images):
    from_path = load.OpenVinoEngine(MODEL, 1, 4)
    from_bytes = load.OpenVinoEngine(MODEL.read_bytes(), 1, 4)
    np.testing.assert_array_equal(from_path.run(images), from_bytes.run(images))
    (described,) = from_path.describe()["inputs"]
    shape = [None, *from_path.input_shape]
    assert described == {"name": "images", "dtype": "float32", "shape": shape}
    assert from_path.describe()["outputs"][0]["shape"] == [None, from_path.num_classes]


def test_a_refusal_gives_the_reason_in_one_line():
    with pytest.raises(VitsdError, match="can't load the model: ") as refused:
        OpenVinoEngine(b"no model", 1, 1)
    assert "\n" not in str(refused.value)
    assert "Exception from" not in str(refused.value)


FORKED = """
import os, sys, signal
from pathlib import Path
import numpy as np
from vitsd_runtime.engines.openvino import OpenVinoEngine
engine = OpenVinoEngine(Path(sys.argv[1]), 2, 4)
images = np.ones((5, *engine.input_shape), np.float32)
expected = engine.run(images)
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    os._exit(0 if np.array_equal(engine.run(images), expected) else 1)
sys.exit(os.waitpid(pid, 0)[1] != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_opens_its_own():
    done = subprocess.run([sys.executable, "-c", FORKED, str(MODEL)], timeout=120)
    assert done.returncode == 0
