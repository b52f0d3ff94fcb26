"""Names of files, JSON of others and options of absurd size: printed harmlessly, refused early."""

import json

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        ["vitsd-train", "--data", "digits", "--preset", "NAME"],
        ["vitsd-train", "--data", "digits", "--pretrained", "NAME"],
        ["vitsd-train", "--data", "digits", "--pretrained", "NAME.onnx"],
        ["vitsd-train", "--data", "digits", "--pretrained", "NAME-damaged.keras"],
        ["vitsd-train", "--data", "digits", "--output", "NAME"],
        ["vitsd-train", "--data", "digits", "--output", "NAME.json/run"],
        ["vitsd-train", "--resume", "--output", "NAME.none"],
        ["vitsd-train", "--resume", "--output", "NAME", "--epochs", "2"],
        ["vitsd-evaluate", "NAME", "--data", "digits"],
        ["vitsd-evaluate", "NAME-damaged.keras", "--data", "digits"],
        ["vitsd-evaluate", "NAME-damaged.onnx", "--data", "digits"],
        ["vitsd-explain", "NAME", "x.png"],
        ["vitsd-explain", "NAME.keras", "x.png", "--output", "NAME"],
        ["vitsd-export", "NAME"],
        ["vitsd-export", "NAME-damaged.keras"],
        ["vitsd-export", "NAME.keras", "--format", "NAME.keras"],
        ["vitsd-export", "NAME.keras", "--quantization", "NAME"],
        ["vitsd-export", "NAME.keras", "--quantization", "int8", "--recipe", "NAME.json"],
        ["vitsd-export", "NAME.keras", "--quantization", "int8", "--recipe", "NAME.deep.json"],
        ["vitsd-export", "NAME.keras", "--deploy", "NAME"],
        ["vitsd-parity", "NAME", "NAME", "--data", "digits"],
        ["vitsd-parity", "NAME.onnx", "NAME-damaged.onnx", "--data", "digits"],
        ["vitsd-import", "NAME", "--output", "NAME.keras"],
        ["vitsd-import", "NAME", "--output", "NAME.onnx"],
    ],
)
def test_names_are_printed_harmlessly(
    command_here, untrusted, assert_harmless, tmp_path, arguments
):
    done = command_here(*untrusted(*arguments), cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert_harmless(done)


def test_names_of_good_models_are_too(command_here, untrusted, assert_harmless, tmp_path):
    few = ["--data", "digits", "--limit", "20"]
    for arguments in (
        ["vitsd-evaluate", "NAME.onnx", *few],
        ["vitsd-parity", "NAME.onnx", "NAME.tflite", *few],
    ):
        done = command_here(*untrusted(*arguments), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert_harmless(done)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "1" + "0" * 20], "--seed: must be a whole number from 0 to 4,294,967,295"),
        (["--num-layers", "4000"], "from 1 to 64"),
        (["--batch-size", "1" + "0" * 20], "from 1 to 1,000,000"),
        (["--input-size", "8192"], "from 1 to 1,024"),
        (["--mlp-units", "64," + "9" * 9], "mlp_units must be from 1 to 16,384"),
        (["--learning-rate", "nan"], "--learning-rate: must be a number"),
        (["--weight-decay", "inf"], "--weight-decay: must be a number"),
        (["--image-size", "1020", "--patch-size", "6"], "attention weights an image"),
        (["--head-units", "16384,16384"], "weights; at most 134,217,728"),
    ],
)
def test_options_have_ranges_and_say_them(command_here, tmp_path, options, message):
    done = command_here("vitsd-train", "--data", "digits", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested more than 20 deep"),
        ("[]", "is not the description of a run"),
        ('{"origin": []}', "is damaged"),
        ('{"origin": {"options": []}}', "its options are no object"),
        ('{"origin": {"options": {"data": 5}}}', "data must be of type str"),
        ('{"origin": {"options": {"data": "digits", "preset": []}}}', "preset must be of type str"),
        ('{"origin": {"options": {"data": "digits", "input_size": "x"}}}', "input_size must be"),
        ('{"origin": {"options": {"data": "digits", "num_layers": NaN}}}', "NaN is not a finite"),
    ],
)
def test_a_damaged_description_of_a_run_is_named(command_here, tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    done = command_here("vitsd-train", "--resume", "--output", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_options_of_a_run_are_checked_like_those_of_a_command(command_here, tmp_path):
    options = {"data": "digits", "preset": "tiny", "num_layers": "many"}
    (tmp_path / "run.json").write_text(json.dumps({"origin": {"options": options}}))
    done = command_here("vitsd-train", "--resume", "--output", tmp_path)
    assert done.returncode == 2
    assert "num_layers must be of type int; got 'many'" in done.stderr
