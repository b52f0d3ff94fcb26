"""ExportOptions: each rule alone, without a model."""

import dataclasses

import pytest

import vitsd_export
from vitsd_export import ExportOptions, export
from vitsd_export.options import ExportKeywords
from vitsd_runtime import UsageError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"io": "int16"}, "io must be one of float32, int8"),
        ({"io": "int8"}, "needs `format=tflite` and `quantization=int8`"),
        ({"io": "int8", "quantization": "int8", "format": "onnx"}, "needs `format=tflite`"),
        (
            {"io": "int8", "quantization": "int8", "embed_preprocessing": True},
            "leave out `io=int8`",
        ),
        ({"quantization": "int8-full", "embed_preprocessing": True}, "takes int8 inputs"),
        ({"opset": 12}, r"opset must be from 13 to 18"),
        ({"opset": True}, "opset must be of type int"),
        ({"target": "coral"}, "target must be one of litert, tflite-runtime-2.14"),
        (
            {"target": "tflite-runtime-2.14", "quantization": ["none", "int4"]},
            "takes `quantization` none, float16, dynamic, int8, int8-full; got int4",
        ),
        (
            {"target": "tflite-micro", "quantization": "dynamic"},
            "`target=tflite-micro` takes `quantization` int8-full; got dynamic",
        ),
        ({"target": "ethos-u85"}, "`target=ethos-u85` takes `quantization` int8-full; got none"),
        ({"target": "ethos-u55", "format": "onnx"}, "`target=ethos-u55` is for `format=tflite`"),
        ({"arena": 1000, "quantization": "int8-full"}, "`arena` is for `target=tflite-micro`"),
        ({"arena": -1}, "arena must be from 0 to 1,073,741,824"),
        ({"max_drop": float("inf")}, "max_drop must be of type float"),
        ({"max_drop": 100.5}, r"max_drop must be from 0 to 100"),
        ({"calibration_images": 31}, "calibration_images must be from 32 to 1,000,000"),
        ({"recipe": "r.json"}, "needs a single `format` and one `quantization` of dynamic, int8"),
        ({"recipe": "r.json", "quantization": ["int8", "int4"]}, "needs a single `format`"),
    ],
)
def test_wrong_options_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        ExportOptions(**values)


def test_combinations_are_those_that_exist():
    options = ExportOptions("all", ["none", "int4", "dynamic"])
    assert options.artifacts == [
        ("saved_model", "none"),
        ("tflite", "none"),
        ("tflite", "int4"),
        ("tflite", "dynamic"),
        ("onnx", "none"),
        ("onnx", "dynamic"),
    ]
    assert options.searched == ["int4", "dynamic", "dynamic"]
    assert ExportOptions("litert").artifacts == [("tflite", "none")]


def test_integer_io_is_for_int8_only():
    options = ExportOptions("tflite", ["none", "int8", "int8-full"], io="int8")
    assert [options.integer_io(q) for _, q in options.artifacts] == [False, True, False]


def test_the_keywords_of_export_are_the_options():
    names = {field.name for field in dataclasses.fields(ExportOptions)}
    assert set(ExportKeywords.__annotations__) == names - {"format", "quantization"}


def test_the_old_keyword_still_works_and_says_so():
    with (
        pytest.warns(DeprecationWarning, match="quantize is called quantization"),
        pytest.raises(UsageError, match="Unknown quantization 'int2'"),
    ):
        export("none.keras", quantize="int2")


def test_public_names_are_there_and_listed():
    for name in vitsd_export.__all__:
        assert getattr(vitsd_export, name).__name__ == name
        assert name in dir(vitsd_export)
    assert vitsd_export.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'plan'"):
        vitsd_export.plan  # noqa: B018 - the access is what is tested
