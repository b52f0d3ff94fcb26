"""What a file's golden images tell about the machine that runs it."""

import base64
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from vitsd_runtime import Classifier, UsageError, verification
from vitsd_runtime.formats import require_spec, write_spec
from vitsd_runtime.verification import STAGES, verify

OLD = Path(__file__).parent / "data/schema1/digits-float32.tflite"
ALL = [
    *("-float32.tflite", "-float16.tflite", "-dynamic.tflite", "-int8.tflite", "-int8-full.tflite"),
    *(".onnx", "-dynamic.onnx", "-int8.onnx", "_saved_model"),
]


def _bomb():
    content = io.BytesIO()
    Image.new("1", (2000, 2000)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


BOMB = _bomb()


def verified(path, **changes):
    """What is found when a file's spec is changed, and its digests with it."""
    if changes:
        write_spec(path, require_spec(path).replace(**changes))
    return verify(Classifier.load(path, num_threads=1))


@pytest.fixture
def model(artifact):
    return artifact("-float32.tflite", ".onnx")


@pytest.mark.parametrize("ending", ALL)
def test_every_kind_of_file_is_verified(exported_model, ending):
    found = verify(Classifier.load(exported_model(ending)))
    assert found.passed, found
    assert found.failed is None
    assert tuple(stage.name for stage in found.stages) == STAGES
    assert all(stage.detail.isprintable() for stage in found.stages)


def test_another_mean_is_noticed_in_the_tensor(model):
    mean = [value + 2 for value in require_spec(model).mean]
    assert verified(model, mean=mean).failed == "tensor"


def test_another_size_is_noticed_in_the_tensor(model, monkeypatch):
    right = verification.Classifier.prepare
    monkeypatch.setattr(
        verification.Classifier, "prepare", lambda *args: np.roll(right(*args), 1, axis=2)
    )
    assert verified(model).failed == "tensor"


def test_another_resize_is_noticed_in_the_pixels(model):
    assert verified(model, resize_mode="crop").failed == "pixels"


def test_another_range_of_values_is_noticed_in_the_pixels(model):
    assert verified(model, value_range=(0, 200)).failed == "pixels"


def test_a_photo_that_is_not_turned_upright_is_noticed_in_the_pixels(model, monkeypatch):
    monkeypatch.setattr("vitsd_runtime.images.decoding._orientation", lambda image: 1)
    assert verified(model).failed == "pixels"


def test_a_damaged_weight_is_noticed_in_the_logits(artifact):
    model = artifact("-float32.tflite")
    spec, content = require_spec(model), bytearray(model.read_bytes())
    middle = spec.integrity.size // 8 * 4
    content[middle : middle + 4] = np.float32(30).tobytes()
    model.write_bytes(content[: spec.integrity.size])
    write_spec(model, spec)
    assert verified(model).failed == "logits"


@pytest.mark.parametrize("first", [0, 8])
def test_a_wrong_order_of_labels_is_noticed(model, first):
    names = list(require_spec(model).class_names)
    names[first : first + 2] = names[first : first + 2][::-1]
    found = verified(model, class_names=names)
    assert found.failed == "labels"
    assert "order" in found.stages[-1].detail


def test_a_wrong_label_is_named(model):
    golden = require_spec(model).golden
    labels = [golden.labels[1], *golden.labels[1:]]
    found = verified(model, golden=dataclasses.replace(golden, labels=labels))
    assert found.failed == "labels"
    assert f"{golden.labels[0]} instead of {golden.labels[1]}" in found.stages[-1].detail


def test_a_tie_of_two_classes_is_no_wrong_label(model):
    golden = require_spec(model).golden
    labels = [golden.labels[1], *golden.labels[1:]]
    golden = dataclasses.replace(golden, labels=labels, tolerance=100.0)
    assert verified(model, golden=golden).passed


@pytest.mark.parametrize(
    ("field", "value", "stage"),
    [
        ("photo", "/9j/" * 9, "pixels"),
        ("photo", "no base64", "pixels"),
        ("photo", BOMB, "pixels"),
        ("photo_pixels", BOMB, "pixels"),
        ("images", (BOMB,) * 8, "pixels"),
        ("photo_pixels", "\u00e9", "pixels"),
        ("pixels_sha256", "0" * 64, "pixels"),
        ("tensor", "AAAA", "tensor"),
        ("tensor", verification.encode(np.full((8, 64), np.inf)), "tensor"),
        ("logits", "", "logits"),
        ("reference", "AAAAAAAA", "logits"),
    ],
)
def test_damaged_golden_data_fail_at_their_stage(model, field, value, stage, monkeypatch, recwarn):
    def load(image):
        assert max(image.size) < 2000, "it was decoded"
        return decode(image)

    decode = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    golden = dataclasses.replace(require_spec(model).golden, **{field: value})
    found = verified(model, golden=golden)
    assert found.failed == stage
    assert found.stages[-1].detail.isprintable()
    assert "decoded" not in found.stages[-1].detail
    assert not recwarn.list


def test_logits_that_are_no_numbers_are_no_match(model):
    golden = require_spec(model).golden
    nan = verification.encode(np.full((len(golden.images), 10), np.nan))
    assert verified(model, golden=dataclasses.replace(golden, logits=nan)).failed == "logits"


def test_files_without_golden_images_say_so(command_here):
    with pytest.raises(UsageError, match="export it again"):
        verify(Classifier.load(OLD, num_threads=1))
    done = command_here("vitsd-verify", OLD)
    assert done.returncode == 2
    assert "no golden images" in done.stderr


def test_without_pillow_nothing_is_said_of_the_machine(command_here, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    result = command_here("vitsd-verify")
    assert result.returncode == 1
    assert "needs Pillow" in result.stderr
    assert "DIFFERENT" not in result.stdout


def test_few_values_stand_for_many():
    assert verification.coarse(np.zeros((1024, 40, 3), np.uint8)).shape == (32, 20, 3)
    assert verification.coarse(np.zeros((8, 8, 1), np.uint8)).shape == (8, 8, 1)
    assert len(range(20_000)[verification.columns(20_000)]) == 100
    assert len(range(101)[verification.columns(101)]) == 51
    assert len(range(10)[verification.columns(10)]) == 10
    places = verification.sample(np.arange(72 * 72 * 3).reshape(1, 72, 72, 3))[0].astype(int)
    assert len(set(places)) == 64
    assert set(places % 3) == {0, 1, 2}


@pytest.fixture
def labeled(digits, tmp_path):
    """A folder of class folders with two images of each digit."""
    for label in range(10):
        folder = tmp_path / "photos" / str(label)
        folder.mkdir(parents=True)
        for i in np.flatnonzero(digits.labels == label)[:2]:
            Image.fromarray(digits.images[i, ..., 0]).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_the_command_prints_stages_and_accuracy(command_here, model, labeled):
    (labeled / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = command_here("vitsd-verify", model, "--data", labeled, "--json")
    assert done.returncode == 0, done.stderr
    assert "1 images were left out" in done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert [stage["name"] for stage in report["stages"]] == list(STAGES)
    accuracy = report["accuracy"]
    assert (accuracy["images"], accuracy["unreadable"]) == (20, 1)
    classifier = Classifier.load(model, num_threads=1)
    right = [
        classifier.predict(path, 1)[0][0].label == folder.name
        for folder in labeled.iterdir()
        for path in folder.glob("[0-9]*.png")
    ]
    assert accuracy["top1"] == accuracy["balanced_accuracy"] == pytest.approx(np.mean(right))
    assert accuracy["top1"] <= accuracy["top5"] <= 1

    done = command_here("vitsd-verify", model, "--data", labeled)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[3:7]] == [
        [stage, "same"] for stage in STAGES
    ]
    assert "top-1" in done.stdout


def test_a_failure_is_exit_code_1_and_names_the_stage(command_here, model, labeled):
    write_spec(model, require_spec(model).replace(mean=[1.0]))
    for more in ((), ("--json",), ("--data", labeled)):
        done = command_here("vitsd-verify", model, *more)
        assert done.returncode == 1
        assert "the stage tensor fails" in done.stderr
        assert "DIFFERENT" in done.stdout or json.loads(done.stdout)["failed"] == "tensor"


def test_the_test_folder_of_splits_is_taken(command_here, model, labeled, tmp_path):
    (tmp_path / "data").mkdir()
    labeled.rename(tmp_path / "data" / "test")
    (tmp_path / "data" / "train").mkdir()
    done = command_here("vitsd-verify", model, "--data", tmp_path / "data", "--json")
    assert json.loads(done.stdout)["accuracy"]["images"] == 20


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("dachshund",), "no classes of the model: dachshund"),
        (("train", "val"), "no classes of the model: train, val"),
        (("3",), "No images in class folders"),
        ((), "No images in class folders"),
    ],
)
def test_other_folders_are_misuse(command_here, model, tmp_path, folders, message):
    for name in folders:
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data").mkdir(exist_ok=True)
    done = command_here("vitsd-verify", model, "--data", tmp_path / "data")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_no_readable_image_is_a_failure(command_here, model, tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = command_here("vitsd-verify", model, "--data", tmp_path)
    assert done.returncode == 1
    assert "None of the images" in done.stderr


def test_inspect_says_that_there_are_golden_images(command_here, model):
    assert "images with known answers (vitsd-verify)" in command_here("vitsd-inspect", model).stdout
