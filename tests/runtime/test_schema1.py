"""Artifacts written with schema 1 load, mean the same, and give the same answers."""

import json
from pathlib import Path

import numpy as np
import pytest

from vitsd_runtime import Classifier, VitsdError, bundled_model, read_spec
from vitsd_runtime.spec import Architecture, AugmentationRanges, ModelSpec
from vitsd_runtime.spec.schema1 import upgrade_architecture

FOLDER = Path(__file__).parent / "data" / "schema1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())["logits"]
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
ENGINES = {".tflite": "ai_edge_litert", ".onnx": "onnxruntime", "": "tensorflow"}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_spec_means_what_it_meant(name):
    spec = read_spec(FOLDER / name)
    assert spec.resize_mode == "crop"
    assert spec.augmentation == AugmentationRanges(None, 0.02, 0.1)
    assert (spec.input_size, spec.image_size, spec.num_classes) == ((8, 8, 1), 8, 10)
    assert (spec.architecture.hidden_dim, spec.architecture.num_layers) == (8, 1)
    assert spec.architecture.mlp_units == (16, 8)
    recipe = spec.provenance.recipe
    assert (recipe["mixup_alpha"], recipe["ema_momentum"]) == (0.1, 0.5)
    assert (recipe["warmup_fraction"], recipe["validation_fraction"]) == (0.1, 0.1)
    assert spec.provenance.preset == "tiny"
    assert spec.integrity.size > 1000
    if name == "digits.keras":
        assert spec.export is None
        assert spec.provenance.source == "digits"
    else:
        assert spec.export.parity.passed
        assert spec.export.parity.images == 359
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.endswith(".keras")])
def test_exported_files_answer_as_they_did(name):
    pytest.importorskip(ENGINES[Path(name).suffix])
    logits = Classifier.load(FOLDER / name, num_threads=1).logits(IMAGES)
    # Another CPU's integer kernels may round differently.
    tolerance = 0.3 if "int8" in name or "dynamic" in name else 1e-4
    np.testing.assert_allclose(logits, EXPECTED[name], atol=tolerance)


def test_the_trained_model_answers_as_it_did():
    load_model = pytest.importorskip("vitsd.hub.saving").load_model
    model, _ = load_model(FOLDER / "digits.keras")
    logits = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(logits, EXPECTED["digits.keras"], atol=1e-4)


def test_the_shipped_model_is_read():
    spec = read_spec(bundled_model())
    assert spec.architecture.hidden_dim == 128
    assert spec.export.quantization == "int8"


def test_an_architecture_that_contradicts_the_rest_is_refused():
    spec = read_spec(FOLDER / "digits.keras")
    values = json.loads(spec.to_json())
    old = {"width": 8, "depth": 1, "mlp_units": [16, 8], "num_classes": 11}
    values |= {"schema_version": 1, "fit": values.pop("resize_mode"), "architecture": old}
    with pytest.raises(VitsdError, match="contradicts itself about num_classes"):
        ModelSpec.from_json(json.dumps(values))


def test_a_foreign_model_described_with_schema_1_is_read():
    text = json.dumps(
        {
            "schema_version": 1,
            "name": "foreign",
            "class_names": ["a", "b"],
            "input_size": [8, 8, 3],
            "image_size": 8,
            "mean": [0, 0, 0],
            "variance": [1, 1, 1],
            "fit": "crop",
            "export": {"preprocessing_embedded": True},
        }
    )
    spec = ModelSpec.from_json(text)
    assert spec.preprocessing_embedded
    assert spec.architecture is None


@pytest.mark.parametrize(
    ("section", "value", "left"),
    [
        ("architecture", {"type": "mobilenet"}, None),
        ("provenance", {"dataset": ["a"], "epoch": 3}, {"epoch": 3}),
        ("export", {"format": "TFLite", "target": None, "opset": 17}, {"opset": 17}),
    ],
)
def test_descriptions_that_nothing_rests_on_may_be_anything(section, value, left):
    values = json.loads(read_spec(FOLDER / "digits.keras").to_json())
    old = {"schema_version": 1, section: value, "fit": values.pop("resize_mode")}
    spec = ModelSpec.from_json(json.dumps({**values, "architecture": {}, **old}))
    found = getattr(spec, section)
    if left is None:
        assert found is None
    else:
        (name,) = left
        assert getattr(found, name) == left[name]


def test_what_inference_rests_on_is_checked_in_schema_1_too():
    values = json.loads(read_spec(FOLDER / "digits.keras").to_json())
    old = {"schema_version": 1, "architecture": {}, "export": {"quantization": "int3"}}
    with pytest.raises(VitsdError, match="quantization"):
        ModelSpec.from_json(json.dumps({**values, **old}))


def test_old_names_become_todays():
    old = {"width": 16, "depth": 2, "mlp_units": [16], "image_size": 8, "num_classes": 3}
    today = Architecture.from_dict({**upgrade_architecture(old), "patch_size": 4})
    assert (today.hidden_dim, today.num_layers) == (16, 2)
