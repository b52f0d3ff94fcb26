"""vitsd-export: names, defaults, the gate, and what is left when it fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vitsd import load_model, save_model
from vitsd_export import export
from vitsd_export.exporter import ParityError
from vitsd_export.options import ExportOptions, artifact_name, output_paths, sidecar_paths
from vitsd_runtime import Classifier, UsageError, VitsdError, read_spec


@pytest.fixture
def model(trained, tmp_path):
    """The trained model alone in a folder."""
    return Path(shutil.copy(trained / "model.keras", tmp_path / "model.keras"))


def test_names_are_predictable(exported):
    quantized = {
        "digits-dynamic.tflite",
        "digits-int8.tflite",
        "digits-int8-full.tflite",
        "digits-int4.tflite",
        "digits-dynamic.onnx",
        "digits-int8.onnx",
    }
    names = {path.name for path in exported.iterdir()}
    assert {name for name in names if not name.endswith((".recipe.json", ".sensitivity.png"))} == {
        "digits_saved_model",
        "digits-float32.tflite",
        "digits-float16.tflite",
        "digits.onnx",
        *quantized,
    }
    assert {
        name.removesuffix(".recipe.json") for name in names if name.endswith(".recipe.json")
    } == quantized


@pytest.mark.parametrize(
    ("formats", "quantizations", "expected"),
    [
        (["tflite"], ["none"], {"n-float32.tflite"}),
        (["litert", "tflite"], ["int8"], {"n-int8.tflite"}),
        (["tf_saved_model"], ["none"], {"n_saved_model"}),
        (["onnx", "tflite"], ["dynamic"], {"n-dynamic.onnx", "n-dynamic.tflite"}),
        (
            ["all"],
            ["none", "int8"],
            {"n_saved_model", "n-float32.tflite", "n-int8.tflite", "n.onnx", "n-int8.onnx"},
        ),
    ],
)
def test_plans(formats, quantizations, expected):
    options = ExportOptions(formats, quantizations)
    assert {path.name for path in output_paths(options, "n", Path()).values()} == expected
    assert artifact_name("n", "onnx", "none") == "n.onnx"


@pytest.mark.parametrize(
    ("formats", "quantizations", "message"),
    [
        (["coreml"], ["none"], "Unknown format 'coreml'"),
        (["tflite"], ["int2"], "Unknown quantization 'int2'"),
        (["onnx"], ["int4"], "onnx can't be quantized as int4"),
        (["all"], ["int8"], "saved_model can't be quantized"),
        (["onnx"], ["none", "float16"], "None of onnx can be quantized as float16"),
    ],
)
def test_impossible_plans_are_refused(formats, quantizations, message):
    with pytest.raises(UsageError, match=message):
        ExportOptions(formats, quantizations)


def test_the_bare_command_exports_the_newest_run(command, trained, tmp_path):
    for name, age in (("old", 100), ("new", 0)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        copy = shutil.copy(trained / "model.keras", tmp_path / "runs" / name / "model.keras")
        os.utime(copy, (time.time() - age, time.time() - age))
    done = command("vitsd-export", "--format", "tflite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "newest run: runs/new/model.keras" in done.stdout
    assert (tmp_path / "runs" / "new" / "digits-float32.tflite").is_file()
    again = command("vitsd-export", "--format", "tflite", cwd=tmp_path)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert (
        command(
            "vitsd-export", "--format", "tflite", "--overwrite", "--json", cwd=tmp_path
        ).returncode
        == 0
    )


@pytest.mark.parametrize("ending", ["recipe.json", "sensitivity.png"])
def test_what_lies_beside_a_model_is_not_replaced_without_a_word(model, tmp_path, ending):
    beside = tmp_path / f"digits-int8.tflite.{ending}"
    beside.write_text("mine")
    with pytest.raises(UsageError, match=f"{ending} exists; replace it with `overwrite`"):
        export(model, "tflite", "int8", output=tmp_path)
    beside.unlink()
    beside.mkdir()
    with pytest.raises(UsageError, match=f"{ending} is a folder"):
        export(model, "tflite", "int8", output=tmp_path, overwrite=True)
    assert not (tmp_path / "digits-int8.tflite").exists()


def test_what_belongs_to_an_earlier_export_is_removed(model, tmp_path):
    recipe, picture = sidecar_paths(tmp_path / "digits-dynamic.tflite")
    for beside in (recipe, picture):
        beside.write_text("old")
    export(model, "tflite", "dynamic", output=tmp_path, overwrite=True)
    assert json.loads(recipe.read_text())["quantization"] == "dynamic"
    assert not picture.exists()  # nothing had to be measured


@pytest.mark.parametrize("lists", [{"format": []}, {"quantization": []}])
def test_an_export_of_nothing_is_refused(lists):
    with pytest.raises(UsageError, match="at least one"):
        ExportOptions(**lists)


@pytest.mark.parametrize("opset", [13, 18])
def test_every_opset_that_is_offered_works(model, opset):
    (artifact,) = export(model, "onnx", opset=opset)
    assert artifact.spec.export.opset == opset


def test_json_tells_what_was_found(command, model):
    done = command(
        "vitsd-export", model, "--format", "litert", "--quantization", "dynamic", "--json"
    )
    (artifact,) = json.loads(done.stdout)["artifacts"]
    assert artifact["passed"]
    assert artifact["images"] == 359
    assert artifact["agreement"] > 0.97
    spec = read_spec(model.parent / "digits-dynamic.tflite")
    assert spec.export.parity.agreement == artifact["agreement"]


@pytest.mark.parametrize("quantization", ["none", "dynamic", "int8"])
def test_embedded_preprocessing_takes_raw_pixels(model, trained, digits, quantization):
    formats = {"none": ["all"], "dynamic": ["tflite", "onnx"], "int8": ["tflite"]}[quantization]
    artifacts = export(
        model, formats, quantization, model.parent / "embedded", embed_preprocessing=True
    )
    expected = load_model(trained / "model.keras")[0].predict(digits.images, verbose=0)
    for artifact in artifacts:
        classifier = Classifier.load(artifact.path)
        assert classifier.engine.input_dtype == np.uint8
        assert classifier.engine.input_shape == (8, 8, 1)
        logits = classifier.logits(digits.images)
        if quantization == "none":
            np.testing.assert_allclose(logits, expected, atol=1e-3 * np.abs(expected).max())
        assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95
        with pytest.raises(UsageError, match="without `embed_preprocessing`"):
            classifier.predict(digits.images[0], tta=3)


@pytest.fixture
def wrong_graph(monkeypatch):
    """A step that loses the position embedding: a plausible bug that only real answers show."""
    import dataclasses

    from vitsd_export import artifact_writer as writing

    real = writing.fold

    def fold(weights, config):
        folded = real(weights, config)
        return dataclasses.replace(
            folded, position_embedding=np.zeros_like(folded.position_embedding)
        )

    monkeypatch.setattr(writing, "fold", fold)


def test_what_fails_the_gate_is_not_kept(model, wrong_graph):
    with pytest.raises(
        ParityError, match=r"keep_failing.*digits-float32.tflite: largest logit difference"
    ) as raised:
        export(model, "all", ["none", "float16"], overwrite=True)
    assert len(raised.value.comparisons) == 4
    assert not any(c.passed for c in raised.value.comparisons if c.quantization == "none")
    passed = {Path(c.path) for c in raised.value.comparisons if c.passed}
    assert set(model.parent.iterdir()) == {model, *passed}


def test_the_command_shows_the_comparison_of_what_failed(model, wrong_graph, capsys):
    from vitsd_export.cli.export import main

    assert main([str(model), "--format", "tflite", "--json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["artifacts"][0]["passed"] is False
    assert "--keep-failing" in output.err
    assert main([str(model), "--format", "tflite", "--keep-failing"]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_failing_file_does_not_take_the_place_of_a_good_one(model, wrong_graph):
    good = model.parent / "digits-float32.tflite"
    good.write_bytes(b"a good one")
    with pytest.raises(VitsdError, match="parity gate"):
        export(model, ["tflite"], overwrite=True)
    assert good.read_bytes() == b"a good one"


def test_failing_files_can_be_kept_and_say_so(model, wrong_graph):
    (artifact,) = export(model, ["tflite"], keep_failing=True)
    assert not artifact.comparison.passed
    assert read_spec(artifact.path).export.parity.passed is False


def test_an_interrupted_export_leaves_nothing_half_written(model):
    tool = Path(sys.executable).parent / "vitsd-export"
    process = subprocess.Popen(
        [tool, model, "--format", "all"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=model.parent,
    )
    deadline = time.monotonic() + 120
    while not list(model.parent.glob(".vitsd-tmp-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not list(model.parent.glob(".*"))


@pytest.mark.parametrize(
    ("reason", "message"),
    [("No space left on device", "the disk is full"), ("Input/output error", "TensorFlow can't")],
)
def test_a_full_disk_is_reported_and_leaves_nothing(model, monkeypatch, capsys, reason, message):
    import tensorflow as tf

    from vitsd_export.cli.export import main

    def save(module, path, signatures):
        Path(path).mkdir(parents=True)
        (Path(path) / "half").write_bytes(b"half of a mo")
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}/saved_model.pb.tmp; {reason}")

    monkeypatch.setattr(tf.saved_model, "save", save)
    assert main([str(model), "--format", "saved_model"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert list(model.parent.iterdir()) == [model]


def test_a_full_disk_that_onnxruntime_does_not_notice_is_reported(model, monkeypatch, capsys):
    from google.protobuf.message import DecodeError

    from vitsd_export.cli.export import main

    def quantize(*arguments, **options):
        raise DecodeError("Error parsing message")  # of the file that it has just written

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", quantize)
    assert main([str(model), "--format", "onnx", "--quantization", "dynamic"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "is the disk full?" in error
    assert list(model.parent.iterdir()) == [model]


def test_a_model_whose_training_data_is_gone_needs_data(model, tmp_path):
    keras_model, spec = load_model(model)
    save_model(keras_model, tmp_path / "b.keras", spec.replace(provenance={}))
    with pytest.raises(UsageError, match="`data=SOURCE`"):
        export(tmp_path / "b.keras", ["tflite"])
    assert export(tmp_path / "b.keras", ["tflite"], data="digits")[0].comparison.passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.keras"], "no model at none.keras"),
        (["other.tflite"], "not a .keras file"),
        (["MODEL", "--format", "coreml"], "Unknown format"),
        (["MODEL", "--format", "tflite", "other.keras"], "put the model before --format"),
        (["--quantize", "none", "other.keras"], "put the model before --quantization"),
        (["MODEL", "--quantize", "int8-full", "--format", "onnx"], "can't be quantized"),
        (
            ["MODEL", "--format", "tflite,onnx", "--quantization", "none,int2"],
            "Unknown quantization 'int2'",
        ),
        (["MODEL", "--io", "int8"], "--quantization int8"),
        (
            ["MODEL", "--format", "onnx", "--opset", "7"],
            "--opset: must be a whole number from 13 to 18",
        ),
        (
            ["MODEL", "--io", "int8", "--quantize", "int8", "--embed-preprocessing"],
            "leave out --io int8",
        ),
        (["MODEL", "--quantize", "int8-full", "--embed-preprocessing"], "takes int8 inputs"),
        (
            ["MODEL", "--quantize", "int8", "--max-drop", "-1"],
            "--max-drop: must be a number from 0 to 100",
        ),
        (
            ["MODEL", "--quantize", "int8", "--max-drop", "nan"],
            "--max-drop: must be a number from 0 to 100",
        ),
        (["MODEL", "--quantize", "int8", "--calibration-images", "8"], "number from 32"),
        (["MODEL", "--target", "tflite-runtime-1"], "invalid choice: 'tflite-runtime-1'"),
        (["MODEL", "--quantize", "int4", "--target", "tflite-runtime-2.14"], "got int4"),
        (["MODEL", "--quantize", "int8", "--recipe", "none.json"], "can't be read"),
        (
            ["MODEL", "--quantize", "int8", "--recipe", "other.tflite"],
            "is not a quantization recipe",
        ),
        (
            ["MODEL", "--quantize", "none", "--recipe", "none.json"],
            "--recipe needs a single --format",
        ),
        (["MODEL", "--data", "cifar1000"], "There is no dataset"),
        (["MODEL", "--output", "MODEL"], "not a folder"),
        ([], "no run under runs/"),
    ],
)
def test_misuse_ends_with_a_message(command_here, model, arguments, message):
    (model.parent / "other.tflite").touch()
    before = set(model.parent.iterdir())
    done = command_here(
        "vitsd-export", *(model if a == "MODEL" else a for a in arguments), cwd=model.parent
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert set(model.parent.iterdir()) == before
