"""What the quantized files are made of, how they were found, and what happens where none can be."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from vitsd import VitConfig, build_vit, save_model
from vitsd_export import export
from vitsd_export.formats.tflite_schema import operation_versions
from vitsd_export.formats.tflite_targets import TARGETS, check_versions
from vitsd_runtime import Classifier, VitsdError, read_spec

pytestmark = pytest.mark.slow


@pytest.fixture
def model(trained, tmp_path):
    """The trained model alone in a folder."""
    return Path(shutil.copy(trained / "model.keras", tmp_path / "model.keras"))


def tensors_and_operations(path):
    interpreter = Interpreter(str(path))
    tensors = {t["index"]: t for t in interpreter.get_tensor_details()}
    operations = interpreter._get_ops_details()  # noqa: SLF001 - no public method lists them
    return tensors, operations


def test_int8_means_static_int8_dense_layers_where_the_recipe_says_so_and_float_attention(exported):
    path = exported / "digits-int8.tflite"
    tensors, operations = tensors_and_operations(path)
    static = sum(
        op["op_name"] == "FULLY_CONNECTED" and tensors[op["inputs"][0]]["dtype"] == np.int8
        for op in operations
    )
    layers = read_spec(path).export.recipe["layers"]
    assert (
        static
        == sum(choice["precision"] == "static" for choice in layers.values())
        > 0.8 * len(layers)
    )
    for op in operations:
        if op["op_name"] in ("BATCH_MATMUL", "SOFTMAX", "EXP", "RSQRT"):
            assert tensors[op["inputs"][0]]["dtype"] == np.float32


def test_int8_full_is_integers_only(exported):
    path = exported / "digits-int8-full.tflite"
    tensors, operations = tensors_and_operations(path)
    used = {index for op in operations for index in (*op["inputs"], *op["outputs"]) if index >= 0}
    assert {np.dtype(tensors[index]["dtype"]) for index in used} <= {
        np.dtype(t) for t in (np.int8, np.int32)
    }
    names = {op["op_name"] for op in operations}
    assert not names & {"DEQUANTIZE", "BATCH_MATMUL", "SQUARED_DIFFERENCE", "SQUARE"}
    interpreter = Interpreter(str(path))
    assert interpreter.get_input_details()[0]["dtype"] == np.int8
    assert interpreter.get_output_details()[0]["dtype"] == np.int8


@pytest.mark.parametrize("ending", ["-int8.tflite", "-int8-full.tflite"])
def test_every_integer_layer_has_a_bias(
    exported, ending
):  # tflite-runtime 2.14 reads it on Arm, and crashes without
    tensors, operations = tensors_and_operations(exported / f"digits{ending}")
    layers = [op["inputs"] for op in operations if op["op_name"] == "FULLY_CONNECTED"]
    integer = [inputs for inputs in layers if tensors[inputs[0]]["dtype"] == np.int8]
    assert integer
    for _, weights, bias in integer:
        assert tensors[bias]["dtype"] == np.int32
        assert tensors[bias]["shape"].tolist() == [tensors[weights]["shape"][-2]]


def test_int4_weights_are_4_bits(exported):
    tensors, operations = tensors_and_operations(exported / "digits-int4.tflite")
    names = [
        str(tensors[op["inputs"][1]]["dtype"])
        for op in operations
        if op["op_name"] == "FULLY_CONNECTED"
    ]
    layers = read_spec(exported / "digits-int4.tflite").export.recipe["layers"].values()
    assert len(names) == len(layers)
    assert sum(choice["precision"] == "int4" for choice in layers) > 0.5 * len(layers)


@pytest.mark.parametrize(
    "ending", ["-int8.tflite", "-int8-full.tflite", "-int4.tflite", "-int8.onnx"]
)
def test_one_by_one_equals_a_batch(exported, digits, ending):
    path = exported / f"digits{ending}"
    together = Classifier.load(path, batch_size=8).logits(digits.images[:20])
    single = Classifier.load(path, batch_size=1).logits(digits.images[:20])
    np.testing.assert_allclose(together, single, atol=1e-4)


def test_int8_ends(model, digits):
    (artifact,) = export(model, "tflite", "int8", io="int8")
    interpreter = Interpreter(str(artifact.path))
    for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert details["dtype"] == np.int8
    assert (
        np.mean(
            Classifier.load(artifact.path).logits(digits.images).argmax(axis=1) == digits.labels
        )
        > 0.8
    )


def test_the_search_is_recorded_in_the_file_beside_it_and_as_a_picture(exported):
    path = exported / "digits-int8.tflite"
    recipe = json.loads(path.with_name("digits-int8.tflite.recipe.json").read_text())
    spec = read_spec(path)
    assert spec.export.recipe == recipe
    assert recipe["quantization"] == "int8"
    assert recipe["architecture"] == spec.architecture.to_dict()
    assert recipe["measured"]["images"] > 100
    alone = recipe["measured"]["divergence_alone"]
    assert set(alone) == set(recipe["layers"])
    assert all(set(methods) == {"minmax", "percentile", "mse"} for methods in alone.values())
    for name, choice in recipe["layers"].items():
        if choice["precision"] == "static":
            assert choice["method"] == min(alone[name], key=alone[name].get)
    with Image.open(path.with_name("digits-int8.tflite.sensitivity.png")) as picture:
        assert picture.size > (400, 400)


@pytest.mark.parametrize(
    ("ending", "kind", "quantization"),
    [
        ("-int8.tflite", "tflite", "int8"),
        ("-int8-full.tflite", "tflite", "int8-full"),
        ("-int8.onnx", "onnx", "int8"),
    ],
)
def test_a_recipe_is_replayed_to_the_same_model(
    exported, model, digits, ending, kind, quantization
):
    recipe = exported / f"digits{ending}.recipe.json"
    (artifact,) = export(model, kind, quantization, recipe=recipe)
    assert artifact.spec.export.recipe["layers"] == json.loads(recipe.read_text())["layers"]
    first, second = (
        Classifier.load(p).logits(digits.images[:20])
        for p in (exported / f"digits{ending}", artifact.path)
    )
    np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {"num_layers": 9}}, "another architecture"),
        ({"quantization": "int4"}, "is for quantization int4"),
        ({"target": "tflite-runtime-2.14"}, "is for target tflite-runtime-2.14"),
        ({"layers": {"logits": {"precision": "static"}}}, "other layers than the model"),
        ({"layers": {"logits": {"precision": "int2"}}}, "unknown precision"),
        (
            {"layers": {"logits": {"precision": "static", "method": "mean"}}},
            "unknown range method 'mean'",
        ),
        ({"schema": 7}, "not a quantization recipe"),
        ({"unknown": 7}, "not a quantization recipe"),
    ],
)
def test_a_recipe_for_something_else_is_refused(command_here, exported, model, change, message):
    recipe = json.loads((exported / "digits-int8.tflite.recipe.json").read_text())
    (model.parent / "r.json").write_text(json.dumps({**recipe, **change}))
    before = set(model.parent.iterdir())
    done = command_here(
        "vitsd-export", model, "--quantization", "int8", "--recipe", model.parent / "r.json"
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert set(model.parent.iterdir()) == before


def test_an_impossible_budget_fails_with_the_best_and_leaves_nothing(command, tmp_path):
    """8 bits can't tell classes apart whose logits differ by a thousandth of what they share."""
    shape = {
        "input_size": (8, 8, 1),
        "num_classes": 10,
        "image_size": 8,
        "patch_size": 2,
        "hidden_dim": 16,
        "mlp_units": (16,),
    }
    config = VitConfig(num_layers=2, key_dim=8, head_units=(), pooling="gap", **shape)
    keras_model = build_vit(config, mean=[80.0], variance=[1000.0])
    for weight in keras_model.trainable_variables:
        if weight.path == "logits/kernel":
            kernel = np.asarray(weight)
            weight.assign(kernel[:, :1] + 1e-3 * kernel)
    save_model(keras_model, tmp_path / "m.keras", _digits_spec(config))
    before = set(tmp_path.iterdir())
    done = command(
        "vitsd-export",
        tmp_path / "m.keras",
        "--quantization",
        "int8-full",
        "--max-drop",
        0,
        "--data",
        "digits",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "within the budget" in done.stderr
    assert "the best has top-1" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(tmp_path.iterdir()) == before


def _digits_spec(config):
    from vitsd_runtime import ModelSpec

    return ModelSpec(
        name="untrained",
        class_names=tuple("0123456789"),
        input_size=(8, 8, 1),
        image_size=config.image_size,
        mean=(80.0,),
        variance=(1000.0,),
        architecture=config.architecture,
    )


def _named(split):
    return ("x", split.images), ("y", split.labels)


def test_too_few_images_are_refused(command_here, model, digits, tmp_path):
    few = tmp_path / "few.npz"
    splits = {"train": slice(0, 100), "test": slice(100, 200)}
    arrays = {
        f"{name}_{split}": values[places]
        for split, places in splits.items()
        for name, values in _named(digits)
    }
    np.savez(few, class_names=np.array([str(i) for i in range(10)]), **arrays)
    done = command_here("vitsd-export", model, "--quantization", "int8", "--data", few)
    assert done.returncode == 2, done.stderr
    assert "validation images, fewer than 32" in done.stderr
    assert not list(model.parent.glob("*.tflite*"))
    # Dynamic needs no images but those of the gate.
    done = command_here(
        "vitsd-export", model, "--format", "tflite", "onnx", "--quantize", "dynamic", "--data", few
    )
    assert done.returncode == 0, done.stderr
    assert "no budget can be checked" in done.stdout
    assert (
        read_spec(model.parent / "digits-dynamic.tflite").export.operations["FULLY_CONNECTED"] == 12
    )


def test_images_of_another_shape_are_refused(command_here, model, tmp_path):
    np.savez(
        tmp_path / "color.npz",
        **{f"x_{s}": np.zeros((50, 8, 8, 3), np.uint8) for s in ("train", "test")},
        **{f"y_{s}": np.arange(50) % 10 for s in ("train", "test")},
    )
    done = command_here(
        "vitsd-export", model, "--quantization", "int8", "--data", tmp_path / "color.npz"
    )
    assert done.returncode == 2, done.stderr
    assert "3 channels" in done.stderr
    assert not list(model.parent.glob("*.tflite*"))


def test_versions_tell_what_an_old_runtime_would_refuse(exported):
    dynamic, float32 = (
        operation_versions((exported / f"digits-{name}.tflite").read_bytes())
        for name in ("dynamic", "float32")
    )
    assert dynamic["FULLY_CONNECTED"] == 12
    check_versions(dynamic, TARGETS["litert"])
    with pytest.raises(VitsdError, match="FULLY_CONNECTED version 12"):
        check_versions(dynamic, TARGETS["tflite-runtime-2.14"])
    check_versions(float32, TARGETS["tflite-runtime-2.14"])
    assert read_spec(exported / "digits-dynamic.tflite").export.operations["FULLY_CONNECTED"] == 12
