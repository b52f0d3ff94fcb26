"""Golden images: chosen from the test images, small for any input, and true to the file."""

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vitsd_export.data import ParityData
from vitsd_export.golden import GoldenImages
from vitsd_runtime import Classifier, VitsdError, preprocess, verification
from vitsd_runtime.spec import ExportInfo, ModelSpec
from vitsd_runtime.verification import verify


def linear_model(spec):
    """An engine whose logits are sums of the preprocessed values, with other signs each."""
    size = spec.image_size**2 * spec.input_size[2]
    weights = np.random.default_rng(1).normal(size=(size, spec.num_classes)) / np.sqrt(size)
    return SimpleNamespace(
        run=lambda batch: (batch.reshape(len(batch), -1) @ weights).astype(np.float32)
    )


def golden_classifier(spec, count=20):
    """A classifier of such a model, with golden images of smooth noise; and what was chosen."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (count, 6, 6, spec.input_size[2]), np.uint8)
    images = np.stack([_enlarged(image, spec.input_size) for image in small])
    engine = linear_model(spec)
    labels = np.arange(count) % spec.num_classes
    logits = engine.run(preprocess(images, spec))
    keras_model = SimpleNamespace(
        predict=lambda pixels, **options: engine.run(preprocess(pixels, spec))
    )
    chosen = GoldenImages.choose(keras_model, spec, ParityData("x", images, labels, logits))
    golden = chosen.record(spec, engine.run(preprocess(chosen.pixels, spec)))
    return Classifier(engine, spec.replace(golden=golden), Path("m.tflite"), 1, 8), chosen


def _enlarged(image, size):
    picture = Image.fromarray(image.squeeze()).resize(size[1::-1], Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(size)


def sized(spec, height, width, channels=3, **changes):
    changes = {"mean": (120.0,) * channels, "variance": (4000.0,) * channels, **changes}
    return spec.replace(input_size=(height, width, channels), **changes)


@pytest.mark.parametrize(
    "size",
    [(8, 8, 1), (32, 32, 3), (32, 48, 3), (48, 32, 3), (1, 3, 3), (224, 224, 3), (1024, 700, 1)],
)
@pytest.mark.parametrize("mode", ["stretch", "crop"])
def test_they_are_small_and_whole_for_any_input(spec, size, mode):
    classifier, chosen = golden_classifier(sized(spec, *size, resize_mode=mode), count=8)
    golden = classifier.spec.golden
    assert len(golden.images) == 8
    assert sum(map(len, chosen.images)) + len(chosen.photo) < 40_000
    again = ModelSpec.from_json(classifier.spec.to_json())
    assert again == classifier.spec
    assert verify(classifier).passed
    for text in golden.images:
        picture = Image.open(io.BytesIO(base64.b64decode(text)))
        assert picture.size == size[1::-1]


def test_noise_is_small_too(spec):
    spec = sized(spec, 96, 96)
    images = np.random.default_rng(0).integers(0, 256, (9, *spec.input_size), np.uint8)
    model = SimpleNamespace(predict=lambda pixels, **options: np.zeros((len(pixels), 3)))
    test = ParityData("x", images, np.arange(9) % 3, np.zeros((9, 3)))
    chosen = GoldenImages.choose(model, spec, test)
    assert sum(map(len, chosen.images)) + len(chosen.photo) < 40_000
    assert chosen.pixels.shape == (8, 96, 96, 3)


def test_many_classes_take_little(spec):
    names = tuple(f"class {i}" for i in range(20_000))
    classifier, _ = golden_classifier(sized(spec, 32, 32, class_names=names, image_size=8))
    assert len(json.dumps(classifier.spec.to_dict()["golden"])) < 60_000
    assert verify(classifier).passed


@pytest.mark.parametrize("size", [(32, 32, 3), (32, 48, 3), (48, 32, 3), (60, 60, 3)])
@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"resize_mode": "crop"}, "pixels"),
        ({"value_range": (0, 220)}, "pixels"),
        ({"mean": (100.0, 110.0, 120.0)}, "tensor"),
        ({"variance": (4100.0, 3900.0, 4000.0)}, "tensor"),
        ({"class_names": ("cat", "owl", "dog")}, "labels"),
    ],
)
def test_another_spec_is_noticed_at_its_stage(spec, size, changes, stage):
    statistics = {"mean": (120.0, 110.0, 100.0), "variance": (4000.0, 3900.0, 4100.0)}
    classifier, _ = golden_classifier(sized(spec, *size, **statistics))
    classifier.spec = classifier.spec.replace(**changes)
    assert verify(classifier).failed == stage


def test_swapped_channels_are_noticed_where_they_happen(spec, monkeypatch):
    classifier, _ = golden_classifier(sized(spec, 32, 32))
    right = classifier.engine.run
    classifier.engine.run = lambda batch: right(batch[..., ::-1])
    assert verify(classifier).failed == "logits"
    classifier.engine.run = right
    prepare = classifier.prepare
    classifier.prepare = lambda pixels: prepare(pixels[..., ::-1])
    assert verify(classifier).failed == "tensor"
    del classifier.prepare
    load = verification.load_image
    monkeypatch.setattr(
        verification, "load_image", lambda *args, **limit: load(*args, **limit)[..., ::-1]
    )
    assert verify(classifier).failed == "pixels"


def test_a_model_that_preprocesses_is_compared_from_the_pixels_on(spec):
    info = ExportInfo("tflite", preprocessing_embedded=True)
    spec = sized(spec, 32, 32)
    classifier, chosen = golden_classifier(spec)
    engine, embedded = classifier.engine, spec.replace(export=info)
    run = engine.run
    engine.run = lambda pixels: run(preprocess(pixels, spec))
    golden = chosen.record(embedded, engine.run(chosen.pixels))
    classifier = Classifier(engine, embedded.replace(golden=golden), Path("m.tflite"), 1, 8)
    assert verify(classifier).passed
    spec = spec.replace(mean=(90.0,) * 3)  # of what is inside the model
    assert verify(classifier).failed == "logits"


def test_other_rounding_is_no_difference(spec):
    classifier, _ = golden_classifier(sized(spec, 32, 32))
    right = classifier.engine.run
    classifier.engine.run = lambda batch: right(batch) + np.float32(1e-4)
    assert verify(classifier).passed
    classifier.engine.run = lambda batch: right(batch) * np.float32(1.02)
    assert verify(classifier).failed == "logits"


def test_of_a_photo_another_decoder_may_round_differently(spec, monkeypatch):
    classifier, _ = golden_classifier(sized(spec, 32, 32))
    golden = classifier.spec.golden
    load = verification.load_for_model
    monkeypatch.setattr(
        verification, "load_for_model", lambda *args, **limit: load(*args, **limit) ^ 1
    )
    assert verify(classifier).passed
    assert golden.photo.startswith("/9j/")


def test_one_image_of_each_class_that_the_model_knows(spec):
    names = tuple("abcdefghijkl")
    spec = sized(spec, 8, 8, class_names=names)
    labels = np.repeat(np.arange(12), 5)
    images = np.broadcast_to(labels[:, None, None, None] * 20, (60, 8, 8, 3)).astype(np.uint8)
    logits = np.eye(12)[labels]
    logits[labels == 3] = np.eye(12)[4]  # never answered
    model = SimpleNamespace(predict=lambda pixels, **options: np.zeros((len(pixels), 12)))
    chosen = GoldenImages.choose(model, spec, ParityData("x", images, labels, logits))
    classes = (chosen.pixels[:, 0, 0, 0] // 20).tolist()
    assert len(set(classes)) == 8
    assert 3 not in classes
    assert classes != sorted(classes)  # not just the first ones of a hundred
    again = GoldenImages.choose(model, spec, ParityData("x", images, labels, logits))
    assert again.images == chosen.images


def test_fewer_test_images_than_eight_are_enough(spec):
    classifier, _ = golden_classifier(sized(spec, 32, 32), count=1)
    assert len(classifier.spec.golden.images) == 1
    assert verify(classifier).passed


@pytest.mark.parametrize(
    "changes",
    [
        {"images": "iVBORw0K"},
        {"images": []},
        {"images": [1], "labels": ["cat"]},
        {"images": ["x"] * 17, "labels": ["cat"] * 17},
        {"images": ["x" * 200_000], "labels": ["cat"]},
        {"labels": ["cat"]},
        {"photo": None},
        {"logits": [1.0]},
        {"tolerance": 0},
        {"tolerance": "1"},
        {"tolerance": 1e9},
    ],
)
def test_a_spec_with_other_golden_data_is_refused(spec, changes):
    classifier, _ = golden_classifier(sized(spec, 32, 32))
    values = classifier.spec.to_dict()
    values["golden"].update(changes)
    with pytest.raises(VitsdError, match="golden"):
        ModelSpec.from_dict(values)
    with pytest.raises(VitsdError, match="golden is incomplete"):
        ModelSpec.from_dict({**values, "golden": {}})
