"""Classifier: order, batching, streaming, views, threads."""

import builtins
import itertools
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime import Classifier, UsageError, VitsdError, read_spec
from vitsd_runtime.classifier import answer_dict, softmax
from vitsd_runtime.spec import Confidence

ALL = [
    "-float32.tflite",
    "-float16.tflite",
    "-dynamic.tflite",
    "-int8.tflite",
    "-int8-full.tflite",
    ".onnx",
    "-dynamic.onnx",
    "_saved_model",
]


@pytest.fixture(scope="module")
def classifier(exported_model):
    return Classifier.load(exported_model("-float32.tflite", ".onnx"), num_threads=1, batch_size=4)


@pytest.mark.parametrize("ending", ALL)
@pytest.mark.parametrize("count", [1, 3, 4, 7, 11])
def test_batches_answer_like_single_calls(exported_model, digits, ending, count):
    classifier = Classifier.load(exported_model(ending), num_threads=1, batch_size=4)
    together = classifier.logits(digits.images[:count])
    one_by_one = np.concatenate([classifier.logits(image) for image in digits.images[:count]])
    assert together.shape == (count, 10)
    np.testing.assert_allclose(together, one_by_one, atol=2e-5 * np.abs(one_by_one).max())


def test_many_images_may_be_an_array_of_paths_but_no_dictionary(spec, tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    engine = SimpleNamespace(run=lambda batch: np.zeros((2, 3), np.float32))
    classifier = Classifier(engine, spec, Path("m.tflite"), 1, batch_size=4)
    paths = [str(tmp_path / "a.png")] * 2
    for images in (np.array(paths), np.array(paths, object)):
        assert len(classifier.predict(images)) == 2
    with pytest.raises(UsageError, match="dict"):
        classifier.predict({"a.png": paths[0]})


def test_it_recognises_digits(classifier, digits):
    predictions = classifier.predict(digits.images, top_k=1)
    found = np.array([prediction[0].index for prediction in predictions])
    assert np.mean(found == digits.labels) > 0.8
    assert all(p[0].label == str(p[0].index) for p in predictions)


def test_all_kinds_of_input_give_the_same(classifier, digits, tmp_path):
    images = digits.images[:6]
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image[..., 0]).save(paths[-1])
    expected = classifier.predict_proba(images)
    for source in (
        list(images),
        [image[..., 0] for image in images],
        paths,
        [str(path) for path in paths],
        (Image.open(path) for path in paths),
        iter(paths),
    ):
        np.testing.assert_allclose(classifier.predict_proba(source), expected, atol=1e-6)
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(classifier.predict_proba(paths[0]), expected[:1], atol=1e-6)


def test_no_images_give_no_answers(classifier):
    assert classifier.predict([]) == []
    assert classifier.logits([]).shape == (0, 10)


def test_predictions_are_sorted_and_top_k_is_bounded(classifier, digits):
    (predictions,) = classifier.predict(digits.images[0], top_k=99)
    probabilities = [p.probability for p in predictions]
    assert len(predictions) == 10
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(classifier.predict(digits.images[0], top_k=3)[0]) == 3
    for top_k in (0, "3", 1.5):
        with pytest.raises(UsageError, match="top_k"):
            classifier.predict(digits.images[0], top_k=top_k)


def test_a_camera_is_answered_image_by_image(classifier, digits):
    drawn = []

    def endless():
        for i in itertools.count():
            drawn.append(i)
            yield digits.images[i % len(digits.images)]

    for answered, predictions in enumerate(
        itertools.islice(classifier.stream(endless(), top_k=1), 10), 1
    ):
        assert len(drawn) == answered
        assert (
            predictions
            == classifier.predict(digits.images[(answered - 1) % len(digits.images)], top_k=1)[0]
        )


def test_a_stream_reads_as_far_ahead_as_its_batch_size(classifier, digits):
    drawn = []
    images = (drawn.append(i) or image for i, image in enumerate(digits.images[:10]))
    stream = classifier.stream(images, batch_size=4)
    first = next(stream)
    assert drawn == [0, 1, 2, 3]
    assert [first, *stream] == classifier.predict(digits.images[:10])


def test_a_stream_needs_a_batch_size_above_0(classifier, digits):
    with pytest.raises(UsageError, match="batch_size"):
        next(classifier.stream(list(digits.images[:2]), batch_size=0))


def test_prepare_and_forward_are_what_logits_does(classifier, digits):
    pixels = digits.images[:7]
    prepared = classifier.prepare(pixels)
    assert prepared.shape == (7, 24, 24, 1)
    np.testing.assert_array_equal(classifier.forward(prepared), classifier.logits(pixels))


def test_nothing_is_recompiled_for_a_rest(exported_model, digits):
    classifier = Classifier.load(exported_model("-float32.tflite"), num_threads=1, batch_size=4)
    for count in range(1, 12):
        classifier.logits(digits.images[:count])
    (compiled,) = classifier.engine._interpreters.get().made  # noqa: SLF001 - nothing public tells
    assert sorted(compiled) == (
        [1] if classifier.engine.name.startswith("tflite-runtime") else [1, 4]
    )


def test_flip_views_average_the_image_and_its_mirror_image(classifier, digits):
    images = digits.images[:5]
    expected = (classifier.predict_proba(images) + classifier.predict_proba(images[:, :, ::-1])) / 2
    np.testing.assert_allclose(classifier.predict_proba(images, tta="flip"), expected, atol=1e-5)


def test_random_views_are_seeded_and_do_not_depend_on_the_batch(classifier, digits):
    images = digits.images[:6]
    probabilities = classifier.predict_proba(images, tta=4)
    np.testing.assert_array_equal(classifier.predict_proba(images, tta=4), probabilities)
    assert np.abs(probabilities - classifier.predict_proba(images)).max() > 1e-4
    single = np.concatenate([classifier.predict_proba(image, tta=4) for image in images])
    np.testing.assert_allclose(single, probabilities, atol=1e-5)
    np.testing.assert_array_equal(
        classifier.predict_proba(images, tta=1), classifier.predict_proba(images)
    )


@pytest.mark.parametrize("tta", ["rotate", 0, -1, 1.0, 2.5, True])
def test_unknown_views_are_refused(classifier, digits, tta):
    with pytest.raises(UsageError, match="tta"):
        classifier.predict(digits.images[0], tta=tta)


@pytest.mark.parametrize("ending", ["-float32.tflite", ".onnx", "_saved_model"])
def test_threads_may_share_a_classifier(exported_model, digits, ending):
    classifier = Classifier.load(exported_model(ending), num_threads=1, batch_size=4)
    expected = classifier.logits(digits.images[:40])
    wrong = []

    def work(offset):
        for start in range(offset, 40, 4):
            part = classifier.logits(digits.images[start : min(start + 3, 40)])
            reference = expected[start : start + 3]
            if part.shape != reference.shape or np.abs(part - reference).max() > 1e-3:
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_onnx_dynamic_runs_images_alone_because_neighbours_would_change_answers(exported_model):
    assert Classifier.load(exported_model("-dynamic.onnx"), batch_size=8).batch_size == 1


@pytest.mark.parametrize("faster", [1, 3])
def test_threads_are_chosen_by_measuring(exported_model, monkeypatch, faster):
    from vitsd_runtime.engines import load

    real = load.start_engine

    def start_engine(path, format, num_threads, batch_size, backend):
        engine = real(path, format, 1, batch_size)
        run = engine.run
        engine.run = lambda batch: (time.sleep(0 if num_threads == faster else 0.02), run(batch))[1]
        return engine

    monkeypatch.setattr(load, "usable_cores", lambda: 3)
    monkeypatch.setattr(load, "start_engine", start_engine)
    assert Classifier.load(exported_model("-float32.tflite", ".onnx")).num_threads == faster


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"num_threads": 0}, {"backend": "x"}, {"spec": {}}, {"spec": "a.json"}],
)
def test_impossible_options_are_refused(exported_model, options):
    with pytest.raises(UsageError):
        Classifier.load(exported_model("-float32.tflite", ".onnx"), **options)


@pytest.mark.parametrize(
    ("ending", "blocked", "extra"),
    [
        ("-float32.tflite", ("ai_edge_litert", "tflite_runtime", "tensorflow"), "tflite"),
        (".onnx", ("onnxruntime", "openvino"), "onnx"),
        ("_saved_model", ("tensorflow",), "tensorflow"),
    ],
)
def test_a_missing_engine_is_named_with_the_extra_to_install(
    exported_model, monkeypatch, ending, blocked, extra
):
    import importlib

    real = importlib.import_module

    def import_module(name, *rest):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(VitsdError, match=rf"pip install \"vitsd-runtime\[{extra}\]\""):
        Classifier.load(exported_model(ending))


def test_missing_pillow_is_named(classifier, digits, monkeypatch, tmp_path):
    real = builtins.__import__

    def no_pillow(name, *rest, **options):
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *rest, **options)

    (tmp_path / "a.png").write_bytes(b"content")
    monkeypatch.setattr(builtins, "__import__", no_pillow)
    with pytest.raises(VitsdError, match=r"vitsd-runtime\[images\]"):
        classifier.predict(tmp_path / "a.png")
    assert len(classifier.predict(digits.images[0])) == 1  # arrays need no Pillow


def test_a_foreign_onnx_model_with_a_fixed_batch_works_and_one_of_another_dtype_is_refused(
    exported_model, digits, tmp_path
):
    onnx = pytest.importorskip("onnx")
    spec = read_spec(exported_model(".onnx"))
    model = onnx.load(exported_model(".onnx"))
    del model.metadata_props[:]
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    classifier = Classifier.load(tmp_path / "fixed.onnx", spec=spec, batch_size=4)
    expected = Classifier.load(exported_model(".onnx")).logits(digits.images[:6])
    np.testing.assert_allclose(classifier.logits(digits.images[:6]), expected, atol=1e-3)

    raw = spec.replace(input_size=(24, 24, 1), export={"preprocessing_embedded": True})
    with pytest.raises(VitsdError, match="raw pixels"):
        Classifier.load(tmp_path / "fixed.onnx", spec=raw)


def _answering(spec, logits, **options):
    engine = SimpleNamespace(run=lambda batch: np.array([logits] * len(batch), np.float32))
    return Classifier(engine, spec, Path("m.tflite"), 1, batch_size=4, **options)


def test_probabilities_are_those_of_logits_divided_by_the_temperature(spec, photo):
    logits = [2.0, -1.0, 0.5]
    spec = spec.replace(confidence=Confidence(temperature=2.5, threshold=0.0))
    calibrated = softmax(np.array([logits]) / 2.5)
    for tta in (None, "flip", 3):
        found = _answering(spec, logits).predict_proba(photo, tta=tta)
        np.testing.assert_allclose(found, calibrated, rtol=1e-6)
    np.testing.assert_array_equal(_answering(spec, logits).logits(photo), [logits])


def test_no_logits_are_too_large_for_a_temperature(spec, photo):
    spec = spec.replace(confidence=Confidence(temperature=0.001, threshold=0.0))
    found = _answering(spec, [3e38, -3e38, 1e30]).predict_proba(photo)
    np.testing.assert_array_equal(found, [[1, 0, 0]])


@pytest.mark.parametrize(
    ("threshold", "option", "known"),
    [(0.5, None, False), (0.4, None, True), (0.5, 0.4, True), (0.4, 0.5, False), (0.5, 0.0, True)],
)
def test_an_image_below_the_threshold_is_not_known(spec, photo, threshold, option, known):
    spec = spec.replace(confidence=Confidence(temperature=1.0, threshold=threshold))
    classifier = _answering(spec, np.log([0.45, 0.4, 0.15]), min_confidence=option)
    (answer,) = classifier.predict(photo)
    assert [p.known for p in answer] == [known] * 3
    assert answer_dict(answer) == {
        "known": known,
        "predictions": [
            {"label": p.label, "index": p.index, "probability": p.probability} for p in answer
        ],
    }


def test_softmax_does_not_overflow():
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4, -1e4]])), [[0.5, 0.5, 0]])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.full((2, 3), np.nan, np.float32), "not finite"),
        (np.array([[1, 2, 3], [np.inf, 1, 2]], np.float32), "not finite"),
        (np.array([[np.inf, -np.inf, 3], [1, 1, 2]], np.float32), "not finite"),
        (np.ones((0, 3), np.float32), r"2 images with float32 \(0, 3\)"),
        (np.ones((6, 3), np.float32), r"\(6, 3\) instead of float32 \(2, 3\)"),
        (np.ones((2, 4), np.float32), r"\(2, 4\)"),
        (np.ones((2,), np.float32), r"\(2,\)"),
        (np.ones((2, 3)), "float64"),
        (np.array([["a", "b", "c"]] * 2), "<U1"),
    ],
)
def test_every_answer_is_checked(spec, answer, message):
    engine = SimpleNamespace(run=lambda batch: answer)
    classifier = Classifier(engine, spec, Path("odd.onnx"), num_threads=1, batch_size=8)
    with pytest.raises(VitsdError, match=f"odd.onnx .*{message}"):
        classifier.predict_proba(np.zeros((2, *spec.input_size), np.uint8))
