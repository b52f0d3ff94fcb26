"""All backends give the same answers, and the command says so, or says where not."""

import dataclasses
import importlib.util
import json
import shutil

import numpy as np
import pytest

from vitsd.evaluation.evaluate import model_logits
from vitsd_export.gate import compare
from vitsd_export.quantization.schemes import SCHEMES
from vitsd_runtime import Classifier, read_spec

FLOAT = ["-float32.tflite", ".onnx", "_saved_model"]


def float_logits(exported, images):
    """Of each float artifact, and of the .onnx file in OpenVINO too, where that is installed."""
    yield from (model_logits(exported / f"digits{ending}", images) for ending in FLOAT)
    if importlib.util.find_spec("openvino"):
        classifier = Classifier.load(exported / "digits.onnx", backend="openvino", num_threads=1)
        yield classifier.logits(images)


def test_float_artifacts_give_the_keras_models_logits(trained, exported, digits):
    expected = model_logits(trained / "model.keras", digits.images)
    for logits in float_logits(exported, digits.images):
        assert np.abs(logits - expected).max() < 5e-5 * expected.std()
        np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))


def test_flat_images_do_not_set_engines_apart(trained, exported):
    # Their patches have no variance, or nearly none: the rounding of resizing and of means, which
    # each engine has its own way of, would become visible.
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    flat = np.broadcast_to(levels[:, None, None, None], (len(levels), 8, 8, 1))
    nearly = flat.copy()
    nearly[:, 3, 4] ^= 1
    images = np.concatenate([flat, nearly])
    expected = model_logits(trained / "model.keras", images)
    spread = expected.std()
    first, *others = float_logits(exported, images)
    for other in others:
        np.testing.assert_allclose(other, first, atol=2e-5 * spread, rtol=0)
    np.testing.assert_allclose(first, expected, atol=2e-4 * spread, rtol=0)


def test_figures_of_a_worked_example(exported):
    path = exported / "digits-dynamic.tflite"
    spec = read_spec(path)
    reference = np.eye(10, dtype=np.float32)[[0, 1, 2, 3]] * 4
    logits = reference.copy()
    logits[3] = np.eye(10)[5] * 4
    labels = np.array([0, 1, 2, 3])
    result = compare(path, spec, np.zeros((4, 8, 8, 1), np.uint8), labels, reference, logits)
    assert (result.top1, result.agreement, result.max_difference) == (0.75, 0.75, 4.0)
    assert result.top1_change[0] == -0.25
    assert result.top1_change[1] < result.top1_change[0] < result.top1_change[2]
    assert not result.passed
    assert "agreement 75.00 %" in result.failures[0]


def test_nan_logits_fail(exported):
    path = exported / "digits-int8.tflite"
    reference = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    broken = np.full_like(reference, np.nan)
    result = compare(
        path, read_spec(path), np.zeros((4, 8, 8, 1), np.uint8), np.arange(4), reference, broken
    )
    assert not result.passed
    json.loads(json.dumps(result.to_dict(), allow_nan=False))


def test_tolerances_are_those_that_are_documented():
    assert SCHEMES["none"].tolerance.logit_difference == 2e-4
    assert SCHEMES["none"].tolerance.agreement == 0.999
    assert SCHEMES["float16"].tolerance.agreement == 0.995


def test_any_mix_of_models(command, trained, exported):
    models = [
        trained / "model.keras",
        *(exported / f"digits{e}" for e in (*FLOAT, "-int8.tflite", "-dynamic.onnx")),
    ]
    done = command("vitsd-parity", *models, "--data", "digits", "--json", "--limit", 200)
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [model["images"] for model in report["models"]] == [200] * 6
    assert report["models"][0]["max_difference"] == 0
    for model in report["models"]:
        change, low, high = model["top1_change"]
        assert low <= change <= high
        assert high - low < 0.06


def test_a_model_beyond_its_tolerance_ends_with_1(command, trained, exported, tmp_path):
    # A quantised file that claims to be float: what a wrong build step would leave.
    from vitsd_runtime.formats import write_spec

    path = tmp_path / "claims.tflite"
    shutil.copyfile(exported / "digits-int8.tflite", path)
    spec = read_spec(path)
    write_spec(path, spec.replace(export=dataclasses.replace(spec.export, quantization="none")))
    done = command("vitsd-parity", trained / "model.keras", path, "--data", "digits")
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert "largest logit difference" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["MODEL", "--data", "digits"], 2, "at least two models"),
        (["MODEL", "none.onnx", "--data", "digits"], 2, "no model at none.onnx"),
        (["MODEL", "MODEL"], 2, "--data"),
        (
            ["MODEL", "MODEL", "--data", "fashion.npz"],
            2,
            "classes that the model was not trained on",
        ),
    ],
)
def test_misuse_ends_with_a_message(command_here, exported, tmp_path, arguments, code, message):
    x, y = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4) % 2
    np.savez(
        tmp_path / "fashion.npz",
        x_train=x,
        y_train=y,
        x_test=x,
        y_test=y,
        class_names=["shirt", "bag"],
    )
    model = exported / "digits.onnx"
    done = command_here(
        "vitsd-parity", *(model if a == "MODEL" else a for a in arguments), cwd=tmp_path
    )
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
