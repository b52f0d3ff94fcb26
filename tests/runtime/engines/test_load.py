"""Engines: from a path or from bytes, started once, and able to say what they hold."""

import functools
import os
import sys

import numpy as np
import pytest

from vitsd_runtime import Classifier, ModelSpec, UsageError, VitsdError, preprocess, read_spec
from vitsd_runtime.engines import base, load, load_engine, probe
from vitsd_runtime.formats import detect_format
from vitsd_runtime.system import child


@pytest.fixture
def prepared(exported_model, digits):
    return preprocess(digits.images[:5], read_spec(exported_model("-float32.tflite", ".onnx")))


@pytest.mark.parametrize("ending", ["-float32.tflite", "-int8-full.tflite", ".onnx"])
def test_a_files_content_runs_like_the_file(exported_model, prepared, ending):
    path = exported_model(ending)
    from_path = load_engine(path, detect_format(path), batch_size=4)
    content = path.read_bytes()[: read_spec(path).integrity.size]
    from_bytes = load_engine(content, detect_format(path), batch_size=4)
    np.testing.assert_array_equal(from_bytes.run(prepared), from_path.run(prepared))
    assert from_bytes.describe()["inputs"] == from_path.describe()["inputs"]


@pytest.mark.parametrize(("content", "format"), [(b"no model", "tflite"), (b"no model", "onnx")])
def test_content_that_is_no_model_is_an_error(exported_model, content, format):
    exported_model({"tflite": "-float32.tflite", "onnx": ".onnx"}[format])  # skips without engine
    with pytest.raises(VitsdError, match="the model"):
        load_engine(content, format)


def test_a_saved_model_has_no_content(exported_model):
    exported_model("_saved_model")
    with pytest.raises(UsageError, match="folder"):
        load_engine(b"", "saved_model")


def test_the_first_engine_that_is_installed_runs_a_model(exported_model, monkeypatch, prepared):
    path = exported_model("-float32.tflite", ".onnx")
    format = detect_format(path)
    installed = load._ENGINES[format][0]  # noqa: SLF001 - the table under test

    class Absent(installed):
        def __init__(self, model, *rest):
            raise base.not_installed(model, "absent")

    engines = {format: (Absent, installed)}
    monkeypatch.setattr(load, "_ENGINES", engines)
    assert load_engine(path, format).run(prepared).shape == (5, 10)
    monkeypatch.setattr(load, "_ENGINES", {format: (Absent,)})
    with pytest.raises(VitsdError, match=r"vitsd-runtime\[absent\]"):
        load_engine(path, format)


def test_training_models_have_no_engine(trained):
    with pytest.raises(UsageError, match="No engine runs keras"):
        load_engine(trained / "model.keras", "keras")


@pytest.mark.parametrize("num_threads", [1, None])
def test_a_backend_for_another_format_is_refused(exported_model, num_threads):
    path = exported_model("-float32.tflite", ".onnx")
    with pytest.raises(UsageError, match=r"`backend=tensorflow` runs no \w+ models: use "):
        Classifier.load(path, num_threads=num_threads, backend="tensorflow")


def test_a_backend_that_is_missing_says_what_to_install(exported_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(VitsdError, match=r'pip install "vitsd-runtime\[openvino\]"'):
        Classifier.load(exported_model(".onnx"), num_threads=1, backend="openvino")


@pytest.mark.parametrize(
    ("num_threads", "cores", "starts"), [(1, 2, 1), (None, 2, 2), (None, 1, 1)]
)
def test_engines_are_started_no_more_often_than_the_choice_needs(
    exported_model, monkeypatch, num_threads, cores, starts
):
    real, started = load.start_engine, []

    def count(*arguments):
        started.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(load, "usable_cores", lambda: cores)
    monkeypatch.setattr(load, "start_engine", count)
    path = exported_model("-float32.tflite", ".onnx")
    loaded = Classifier.load(path, num_threads=num_threads)
    assert len(started) == starts
    assert loaded.num_threads in (1, cores)


def test_no_engine_sees_what_is_not_sound(artifact, monkeypatch):
    path = artifact("-float32.tflite", ".onnx")
    monkeypatch.setattr(load, "start_engine", lambda *arguments: pytest.fail("started"))
    with pytest.raises(VitsdError, match="is refused"):
        load_engine(path.read_bytes()[:1000], detect_format(path))
    os.truncate(path, 1000)
    for num_threads in (1, None):
        with pytest.raises(VitsdError, match="is refused"):
            Classifier.load(path, spec=SPEC, num_threads=num_threads)


@pytest.fixture
def plain_model(tmp_path):
    """An .onnx file that another converter might have written, and its spec."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("images", 1, ["n", 1, 3, 1])],
        [helper.make_tensor_value_info("logits", 1, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = tmp_path / "plain.onnx"
    path.write_bytes(model.SerializeToString())
    return path


SPEC = ModelSpec(
    name="plain",
    class_names=("a", "b", "c"),
    input_size=(1, 3, 1),
    image_size=3,
    mean=(0.0,),
    variance=(1.0,),
)


@pytest.mark.slow
def test_other_operations_run_where_they_are_allowed(plain_model, monkeypatch):
    with pytest.raises(VitsdError, match=r"Flatten, which vitsd-export does not write \(`allow_"):
        load_engine(plain_model, "onnx")
    images = np.arange(6, dtype=np.float32).reshape(2, 1, 3, 1)
    for model in (plain_model, plain_model.read_bytes()):
        engine = load_engine(model, "onnx", allow_any_operation=True)
        np.testing.assert_array_equal(engine.run(images), images.reshape(2, 3))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", "ends its process: exit code -6"),
        ("import sys; sys.exit('no\\x1b such operation')", r"is refused: no\\x1b such"),
        ("import time; time.sleep(60)", "did not answer within 1 seconds"),
    ],
)
def test_what_ends_its_own_process_is_refused(plain_model, monkeypatch, code, message):
    monkeypatch.setattr(child, "_CHILD", code)
    limited = functools.partial(child.run_in_child, seconds=1 if "sleep" in code else 60)
    monkeypatch.setattr(probe, "run_in_child", limited)
    with pytest.raises(VitsdError, match=message):
        load_engine(plain_model, "onnx", allow_any_operation=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "function", "message"),
    [
        ([None, None, 4, 1], lambda tf, x: tf.ones((1, 3)), "input float32"),
        (None, lambda tf, x: tf.ones((1, 3)), "input float32"),
        ([None, 4, 4, 1], lambda tf, x: tf.strings.as_string(x[:, 0, :3, 0]), "output string"),
        ([None, 4, 4, 1], lambda tf, x: tf.reshape(x, (-1,)), "output float32"),
        ([None, 4, 4, 1], lambda tf, x: None, "can't load"),
    ],
)
def test_saved_models_take_images_and_give_logits(tmp_path, shape, function, message):
    tf = pytest.importorskip("tensorflow")
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="images")])
    def serve(images):
        answer = function(tf, images)
        return {} if answer is None else {"logits": answer}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": serve})
    with pytest.raises(VitsdError, match=message):
        load_engine(tmp_path / "model", "saved_model")


def test_an_engine_that_is_broken_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_engine.py").write_text(r"raise ImportError('no \x1b[2J\nlibrary')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VitsdError, match=r"can't be imported: no \\x1b\[2J$"):
        base.import_optional("broken_engine")
