"""The spec travels inside every kind of model file, and damage is named as what it is."""

import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from vitsd_runtime import Classifier, UsageError, VitsdError, read_spec
from vitsd_runtime.formats import write_spec
from vitsd_runtime.spec import MAX_JSON_BYTES
from vitsd_runtime.system.files import atomic_write

FILES = ["-float32.tflite", "-int8.tflite", ".onnx", "-dynamic.onnx"]


@pytest.mark.parametrize("ending", [*FILES, "_saved_model"])
def test_every_artifact_carries_its_spec(exported_model, ending):
    spec = read_spec(exported_model(ending))
    assert spec.class_names == tuple("0123456789")
    assert spec.input_size == (8, 8, 1)
    assert spec.export.parity.passed
    assert spec.provenance.source is None  # a path of the training machine


def test_the_training_model_carries_its_spec(trained):
    spec = read_spec(trained / "model.keras")
    assert spec.provenance.test_top1 > 0.8


@pytest.mark.parametrize("ending", [*FILES, "_saved_model", ".keras"])
def test_a_spec_can_be_replaced(artifact, trained, tmp_path, ending):
    if ending == ".keras":
        path = tmp_path / "model.keras"
        path.write_bytes((trained / "model.keras").read_bytes())
    else:
        path = artifact(ending)
    spec = read_spec(path)
    written = write_spec(path, spec.replace(resize_mode="crop"))
    assert read_spec(path) == written
    assert written.resize_mode == "crop"
    assert written.integrity.sha256 == spec.integrity.sha256
    assert written.integrity.spec_sha256 != spec.integrity.spec_sha256


@pytest.mark.parametrize("ending", FILES)
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.7, 0.95, 0.999, "one byte less"])
def test_a_cut_off_copy_is_named(artifact, ending, keep):
    path = artifact(ending)
    size = path.stat().st_size
    os.truncate(path, size - 1 if keep == "one byte less" else int(keep * size))
    with pytest.raises(VitsdError, match=r"cut off|empty|not a TFLite model"):
        Classifier.load(path)


@pytest.mark.parametrize("ending", FILES)
def test_a_flipped_bit_is_noticed_before_the_engine_sees_it(artifact, ending):
    path = artifact(ending)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(VitsdError, match="damaged or was changed"):
        Classifier.load(path)
    Classifier.load(path, verify=False)


def test_a_damaged_saved_model_is_named(artifact):
    path = artifact("_saved_model")
    protobuf = path / "1" / "saved_model.pb"
    os.truncate(protobuf, protobuf.stat().st_size // 2)
    with pytest.raises(VitsdError, match="cut off"):
        Classifier.load(path)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_cut_off_keras_file_is_named(trained, tmp_path, keep):
    content = (trained / "model.keras").read_bytes()
    path = tmp_path / "model.keras"
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(VitsdError, match=r"cut off|empty"):
        read_spec(path)


@pytest.mark.parametrize("ending", ["-float32.tflite", ".onnx"])
def test_a_model_without_spec_needs_one_given(artifact, digits, ending):
    path = artifact(ending)
    spec = read_spec(path)
    expected = Classifier.load(path).logits(digits.images[:5])
    os.truncate(path, spec.integrity.size)  # what a converter alone would have written
    assert read_spec(path) is None
    with pytest.raises(UsageError, match="no vitsd spec"):
        Classifier.load(path)
    np.testing.assert_array_equal(
        Classifier.load(path, spec=spec).logits(digits.images[:5]), expected
    )


def test_a_spec_for_another_model_is_refused(artifact):
    path = artifact("-float32.tflite")
    spec = read_spec(path)
    with pytest.raises(VitsdError, match="takes images of shape"):
        Classifier.load(path, spec=spec.replace(image_size=48))
    with pytest.raises(VitsdError, match="names 3 classes"):
        Classifier.load(path, spec=spec.replace(class_names=("a", "b", "c")))


def test_a_newer_schema_is_refused(artifact):
    path = artifact("-float32.tflite")
    spec = read_spec(path)
    os.truncate(path, spec.integrity.size)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(
            "vitsd.json", spec.to_json().replace('"schema_version": 2', '"schema_version": 7')
        )
    with pytest.raises(VitsdError, match="install a newer vitsd-runtime"):
        Classifier.load(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.txt", b"hello"), ("model.tflite", b"hello world"), ("model.onnx", b"\xff" * 100)],
)
def test_what_is_no_model_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VitsdError):
        Classifier.load(tmp_path / name)


def test_missing_models_and_empty_folders_are_misuse(tmp_path, trained):
    for path in (tmp_path / "none.tflite", tmp_path):
        with pytest.raises(UsageError):
            Classifier.load(path)
    with pytest.raises(UsageError, match="vitsd-export"):
        Classifier.load(trained / "model.keras")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_spec_that_unpacks_to_gigabytes_is_not_unpacked(artifact):
    path = artifact("-float32.tflite")
    os.truncate(path, read_spec(path).integrity.size)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vitsd.json", b" " * 200_000_000)
    content = bytearray(path.read_bytes())
    record = content.rindex(b"PK\x01\x02")
    content[record + 24 : record + 28] = (1000).to_bytes(4, "little")  # and it lies about its size
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(VitsdError):
        read_spec(path)
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(artifact, method):
    path = artifact("-float32.tflite")
    spec = read_spec(path)
    os.truncate(path, spec.integrity.size)
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("vitsd.json", spec.to_json())
    with pytest.raises(VitsdError, match="does not use"):
        read_spec(path)


@pytest.mark.parametrize("format", ["tflite", "saved_model"])
def test_a_spec_that_is_larger_than_any_is_not_read_to_its_end(tmp_path, format):
    content = b" " * (MAX_JSON_BYTES + 1)
    if format == "tflite":
        path = tmp_path / "model.tflite"
        path.write_bytes(b"\0\0\0\0TFL3")
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("vitsd.json", content)
    else:
        path = tmp_path
        (path / "saved_model.pb").touch()
        (path / "assets.extra").mkdir()
        (path / "assets.extra" / "vitsd.json").write_bytes(content)
    with pytest.raises(VitsdError, match="larger than 8,388,608 bytes"):
        read_spec(path)
