"""Engines: from a path or from bytes, started once, and able to say what they hold."""

import numpy as np
import pytest

from vitsd_runtime import Classifier, UsageError, VitsdError, preprocess, read_spec
from vitsd_runtime.engines import base, load, load_engine
from vitsd_runtime.formats import detect_format


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
    (installed,) = load._ENGINES[format]  # noqa: SLF001 - the table under test

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


@pytest.mark.parametrize(
    ("num_threads", "cores", "starts"), [(1, 2, 1), (None, 2, 2), (None, 1, 1)]
)
def test_engines_are_started_no_more_often_than_the_choice_needs(
    exported_model, monkeypatch, num_threads, cores, starts
):
    from vitsd_runtime import classifier

    started = []

    def count(*arguments):
        started.append(arguments)
        return load_engine(*arguments)

    monkeypatch.setattr(load, "usable_cores", lambda: cores)
    monkeypatch.setattr(load, "load_engine", count)
    monkeypatch.setattr(classifier, "load_engine", count)
    path = exported_model("-float32.tflite", ".onnx")
    loaded = Classifier.load(path, num_threads=num_threads)
    assert len(started) == starts
    assert loaded.num_threads in (1, cores)
