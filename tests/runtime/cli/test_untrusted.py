"""Names of files, JSON of others and options of absurd size: printed harmlessly, refused early."""

import pytest

CODES = (0, 1, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["vitsd-inspect", "NAME"],
        ["vitsd-inspect", "NAME.none"],
        ["vitsd-inspect", "NAME.json"],
        ["vitsd-inspect", "NAME.keras"],
        ["vitsd-inspect", "NAME-damaged.tflite"],
        ["vitsd-inspect", "NAME-damaged.keras"],
        ["vitsd-verify", "NAME"],
        ["vitsd-verify", "NAME.none"],
        ["vitsd-verify", "NAME.keras"],
        ["vitsd-verify", "NAME.onnx"],
        ["vitsd-verify", "NAME.onnx", "--data", "NAME"],
        ["vitsd-verify", "NAME-damaged.tflite"],
        ["vitsd-bench", "NAME-damaged.onnx"],
        ["vitsd-bench", "NAME.onnx", "--spec", "NAME.none"],
        ["vitsd-bench", "NAME.onnx", "--spec", "NAME.deep.json"],
        ["vitsd-bench", "--save", "NAME"],
        ["vitsd-bench", "--num-threads", "a\x1b[31m"],
        ["vitsd-bench", "--compare", "NAME.json", "NAME.json"],
        ["vitsd-bench", "--compare", "NAME.deep.json", "NAME.json"],
        ["vitsd-bench", "--compare", "NAME.none", "NAME.json"],
        ["vitsd-bench", "--compare", "NAME", "NAME.json"],
    ],
)
def test_names_are_printed_harmlessly(command_here, untrusted, assert_harmless, arguments):
    done = command_here(*untrusted(*arguments))
    assert done.returncode in CODES
    assert_harmless(done)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_names_of_good_models_are_too(command_here, untrusted, assert_harmless, suffix):
    pytest.importorskip("onnxruntime" if suffix == ".onnx" else "ai_edge_litert")
    once = ["--seconds", "0.001", "--num-threads", "1", "--batch-sizes", "1"]
    for arguments in (["vitsd-inspect"], ["vitsd-bench", *once]):
        done = command_here(*untrusted(*arguments, f"NAME{suffix}"))
        assert done.returncode == 0, done.stderr
        assert_harmless(done)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vitsd-bench", "--num-threads", "1" + "0" * 12], "from 1 to 1,024"),
        (["vitsd-bench", "--batch-sizes", "1,1" + "0" * 20], "from 1 to 4,096"),
        (["vitsd-bench", "--seconds", "inf"], "a number in (0, 86400]"),
        (["vitsd-predict", "a.onnx", "x.png", "--num-threads", "1" + "0" * 12], "from 1 to 1,024"),
        (["vitsd-predict", "a.onnx", "x.png", "--batch-size", "1" + "0" * 20], "from 1 to 4,096"),
        (["vitsd-predict", "a.onnx", "x.png", "--top-k", "9" * 5000], "from 1 to 100,000"),
        (["vitsd-predict", "a.onnx", "x.png", "--tta", "1" + "0" * 20], "whole number"),
    ],
)
def test_options_have_ranges_and_say_them(command_here, arguments, message):
    done = command_here(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()[-1]) < 300
