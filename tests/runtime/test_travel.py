"""Classifiers in other processes, and on other machines."""

import multiprocessing
import os
import pickle
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vitsd_runtime import Classifier, UsageError, VitsdError
from vitsd_runtime.engines import travel
from vitsd_runtime.formats import write_spec

MODELS = Path(__file__).parent / "data" / "schema1"
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copy(MODELS / "digits-float32.tflite", tmp_path / "m.tflite"))


@pytest.fixture
def classifier(model):
    return Classifier.load(model, num_threads=1, min_confidence=0.25)


def answers_of(classifier, results):
    results.put((os.getpid(), classifier.logits(IMAGES)))


@pytest.mark.parametrize("pickler", ["pickle", "cloudpickle"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_it_comes_through_a_pickle_with_its_options(model, pickler, in_memory):
    dumps = pytest.importorskip(pickler).dumps
    sent = Classifier.load(
        model, num_threads=1, batch_size=3, min_confidence=0.25, in_memory=in_memory
    )
    came = pickle.loads(dumps(sent))
    np.testing.assert_array_equal(came.logits(IMAGES), sent.logits(IMAGES))
    assert (came.num_threads, came.batch_size, came.min_confidence) == (1, 3, 0.25)
    assert came.spec == sent.spec
    assert came.sha256 == sent.sha256
    assert pickle.loads(pickle.dumps(came)).predict(IMAGES) == sent.predict(IMAGES)


@pytest.mark.parametrize("ending", [".onnx", "_saved_model"])
def test_other_formats_travel_too(ending, tmp_path):
    pytest.importorskip({".onnx": "onnxruntime", "_saved_model": "tensorflow"}[ending])
    sent = Classifier.load(MODELS / f"digits{ending}", num_threads=1)
    came = pickle.loads(pickle.dumps(sent))
    np.testing.assert_array_equal(came.logits(IMAGES), sent.logits(IMAGES))


def test_a_saved_model_has_the_digest_of_all_of_its_files(tmp_path):
    pytest.importorskip("tensorflow")
    folder = shutil.copytree(MODELS / "digits_saved_model", tmp_path / "s")
    content = pickle.dumps(Classifier.load(folder, num_threads=1))
    next(folder.rglob("saved_model.pb")).with_name("added.txt").touch()
    with pytest.raises(VitsdError, match="another model"):
        pickle.loads(content).logits(IMAGES)


def test_unpickling_opens_nothing_until_it_is_used(classifier, model):
    content = pickle.dumps(classifier)
    model.unlink()
    came = pickle.loads(content)
    assert came.spec.num_classes == 10
    assert came.path == model
    with pytest.raises(VitsdError, match=r"m\.tflite is not on this machine, .*: copy the model"):
        came.logits(IMAGES)


def test_another_model_at_its_path_is_refused(classifier, model):
    content = pickle.dumps(classifier)
    shutil.copy(MODELS / "digits-int8.tflite", model)
    with pytest.raises(VitsdError, match=r"another model on this machine.*SHA-256 differs"):
        pickle.loads(content).logits(IMAGES)


def test_a_model_that_was_replaced_since_it_was_loaded_is_not_sent(classifier, model):
    shutil.copy(MODELS / "digits-int8.tflite", model)
    with pytest.raises(VitsdError, match="replaced since it was loaded: load it again"):
        pickle.dumps(classifier)
    model.unlink()
    with pytest.raises(VitsdError, match="removed"):
        pickle.dumps(classifier)


def test_a_relative_path_is_found_from_another_folder(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(Classifier.load("m.tflite", num_threads=1))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(content).logits(IMAGES).shape == (6, 10)


@pytest.mark.parametrize("name", [None, "vit-micro-cifar100"])
def test_a_bundled_model_is_found_where_the_runtime_is(monkeypatch, tmp_path, name):
    sent = Classifier.load(name, num_threads=1)
    content = pickle.dumps(sent)
    there = tmp_path / "site-packages" / sent.path.name
    there.parent.mkdir()
    shutil.copy(sent.path, there)
    monkeypatch.setattr(travel, "bundled_model", lambda name: there.with_name(f"{name}.tflite"))
    came = pickle.loads(content)
    assert came.path == there
    assert came.sha256 == sent.sha256
    assert came.logits(np.zeros((32, 32, 3), np.uint8)).shape == (1, 100)


def test_all_that_come_to_a_process_share_one_engine(classifier):
    content = pickle.dumps(classifier)
    engines = []
    threads = [
        threading.Thread(target=lambda: engines.append(pickle.loads(content).engine))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, engines))) == 1
    assert classifier.engine is not engines[0]


def test_a_fingerprint_is_that_of_all_that_answers_depend_on(classifier, model, tmp_path):
    other = Path(shutil.copy(model, tmp_path / "other.tflite"))
    write_spec(other, classifier.spec.replace(name="other"))
    spec = classifier.spec.replace(class_names=tuple("abcdefghij"))
    found = [
        classifier,
        Classifier.load(model, num_threads=1),
        Classifier.load(model, num_threads=1, min_confidence=0.25, spec=spec),
        Classifier.load(other, num_threads=1, min_confidence=0.25, spec=classifier.spec),
    ]
    assert len({str(each.fingerprint()) for each in found}) == 4
    assert pickle.loads(pickle.dumps(classifier)).fingerprint() == classifier.fingerprint()


def test_what_was_made_by_hand_is_not_sent(classifier):
    by_hand = Classifier(classifier.engine, classifier.spec, Path("m.tflite"), 1, batch_size=4)
    with pytest.raises(UsageError, match=r"Classifier\.load"):
        pickle.dumps(by_hand)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_it_answers_in_processes_of_every_kind(classifier, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    context = multiprocessing.get_context(method)
    results = context.Queue()
    expected = classifier.logits(IMAGES)
    processes = [
        context.Process(target=answers_of, args=(classifier, results), daemon=True)
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert len({pid for pid, _ in found} | {os.getpid()}) == 3
    for _, logits in found:
        np.testing.assert_array_equal(logits, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_one_that_came_is_forked_before_and_after_its_first_use(classifier):
    context = multiprocessing.get_context("fork")
    came = pickle.loads(pickle.dumps(classifier))
    for _ in range(2):  # not opened yet; opened by this process
        results = context.Queue()
        child = context.Process(target=answers_of, args=(came, results), daemon=True)
        child.start()
        pid, logits = results.get(timeout=60)
        child.join(60)
        assert pid != os.getpid()
        np.testing.assert_array_equal(logits, came.logits(IMAGES))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_child_is_not_held_up_by_what_its_parent_was_opening(classifier, monkeypatch):
    content = pickle.dumps(classifier)
    opening, open_ = threading.Event(), travel.ModelSource.open

    def slowly(source):
        opening.set()
        time.sleep(0.5)
        return open_(source)

    monkeypatch.setattr(travel.ModelSource, "open", slowly)
    thread = threading.Thread(target=lambda: pickle.loads(content).logits(IMAGES))
    thread.start()
    opening.wait()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=answers_of, args=(pickle.loads(content), results), daemon=True)
    child.start()
    assert results.get(timeout=60)[1].shape == (6, 10)
    child.join(60)
    thread.join()
