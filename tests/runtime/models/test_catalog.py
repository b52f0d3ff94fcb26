"""The model that comes with the runtime: the commands without a model, and what is in the file."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime import Classifier, UsageError, bundled_model, read_spec
from vitsd_runtime.models.catalog import BUNDLED, find_model

runs_tflite = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("ai_edge_litert", "tflite_runtime"))),
    reason="nothing here runs .tflite files",
)


@pytest.fixture
def picture(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize(("name", "largest"), [(BUNDLED, 1.5e6), ("vit-micro-cifar100", 0.45e6)])
def test_they_are_small_and_say_what_they_are(name, largest):
    path = bundled_model(name)
    assert path.stat().st_size <= largest
    spec = read_spec(path)
    assert spec.name == path.stem == name
    assert spec.num_classes == 100
    assert {"apple", "bicycle", "worm"} <= set(spec.class_names)
    assert spec.export.quantization == "int8"
    assert spec.provenance.dataset == "cifar100"
    assert spec.integrity.spec_sha256  # else damage to its class names would not be noticed


@runs_tflite
def test_a_classifier_without_argument_is_that_model(photo):
    classifier = Classifier.load()
    assert classifier.path == bundled_model()
    expected = Classifier.load(bundled_model()).logits(photo)
    np.testing.assert_array_equal(classifier.logits(photo), expected)


@runs_tflite
def test_another_one_is_taken_by_its_name(photo, command, picture, tmp_path):
    classifier = Classifier.load("vit-micro-cifar100")
    assert classifier.path == bundled_model("vit-micro-cifar100")
    done = command("vitsd-predict", "--model", "vit-micro-cifar100", picture, "--json")
    assert done.returncode == 0, done.stderr
    expected = classifier.predict(picture)[0][0]
    assert json.loads(done.stdout)["predictions"][0]["probability"] == pytest.approx(
        expected.probability, abs=1e-3
    )


def test_a_file_of_that_name_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("vit-micro-cifar100") == bundled_model("vit-micro-cifar100")
    (tmp_path / "vit-micro-cifar100").mkdir()
    assert find_model("vit-micro-cifar100") == Path("vit-micro-cifar100")


@runs_tflite
def test_images_alone_are_enough(command, picture, photo):
    done = command("vitsd-predict", picture, "--json", "--top-k", 1)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["predictions"]
    expected = Classifier.load().predict(picture, top_k=1)[0][0]
    assert answer["label"] == expected.label
    assert "vit-edge-cifar100" in done.stderr  # whose answer it is


@runs_tflite
def test_several_images_and_folders_without_a_model(command, picture):
    done = command("vitsd-predict", picture, picture.parent, picture, "--csv", "--top-k", 1)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 3
    assert len({line.split(",")[2] for line in done.stdout.splitlines()[1:]}) == 1


@runs_tflite
@pytest.mark.parametrize(
    "order",
    [["MODEL", "--top-k", 1, "--json", "IMAGE"], ["--json", "MODEL", "IMAGE", "--top-k", 1]],
)
def test_options_may_stand_anywhere(command, exported_model, picture, order):
    names = {"MODEL": exported_model("-float32.tflite", ".onnx"), "IMAGE": picture}
    done = command("vitsd-predict", *(names.get(word, word) for word in order))
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["predictions"]
    assert answer["label"] in "0123456789"


def test_a_folder_of_models_is_not_a_folder_of_images(command, exported_model, picture):
    folder = exported_model("-float32.tflite", ".onnx").parent
    done = command("vitsd-predict", folder, picture)
    assert done.returncode == 2
    assert "name the exported model itself" in done.stderr


@runs_tflite
def test_a_model_before_the_images_is_used(command, exported_model, picture):
    model = exported_model("-float32.tflite", ".onnx")
    done = command("vitsd-predict", model, picture, "--json", "--top-k", 1)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["label"] in "0123456789"
    assert "vit-edge" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["no.tflite"],
        ["no.tflite", "photo.jpg"],
        ["modle", "photo.jpg"],
        pytest.param(["no.jpg"], marks=runs_tflite),  # the bundled model is loaded before the image
    ],
)
def test_a_mistyped_model_is_not_replaced_by_the_bundled_one(command, picture, words):
    done = command("vitsd-predict", *words, cwd=picture.parent)
    assert done.returncode == 2, done.stderr
    assert words[0] in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@runs_tflite
def test_the_other_commands_take_it_too(command):
    inspected = command("vitsd-inspect", "--json")
    assert json.loads(inspected.stdout)["spec"]["name"] == "vit-edge-cifar100"
    measured = command(
        "vitsd-bench", "--json", "--seconds", 0.05, "--num-threads", 1, "--batch-sizes", 1
    )
    (result,) = json.loads(measured.stdout)["results"]
    assert "vit-edge-cifar100" in result["model"]


def test_a_classifier_of_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no model"):
        Classifier.load(tmp_path / "nothing.tflite")
