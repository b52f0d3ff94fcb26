import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitsd_runtime import Classifier
from vitsd_runtime.engines.affine import dequantize, quantize

# tflite-runtime 2.14 switches the whole process to arithmetic without subnormal numbers on Arm.
values_to_quantise = st.floats(-1000, 1000, width=32, allow_subnormal=False)


@given(
    st.floats(1e-4, 10),
    st.integers(-128, 127),
    st.lists(values_to_quantise, min_size=1, max_size=50),
)
def test_quantising_errs_by_half_a_step_or_saturates(scale, zero_point, values):
    values = np.array(values, np.float32)
    integers = quantize(values, scale, zero_point, np.int8)
    assert integers.dtype == np.int8
    low, high = (scale * (limit - zero_point) for limit in (-128, 127))
    error = np.abs(dequantize(integers, scale, zero_point) - np.clip(values, low, high))
    assert (error <= 0.5 * scale * 1.001 + 1e-5 * np.abs(values)).all()


def test_halves_round_away_from_zero_and_extremes_saturate():
    values = np.array([0.5, 1.5, -0.5, -1.5, 2.4, 1e9, -1e9], np.float32)
    np.testing.assert_array_equal(quantize(values, 1.0, 0, np.int8), [1, 2, -1, -2, 2, 127, -128])
    np.testing.assert_array_equal(quantize(values, 1.0, 10, np.uint8), [11, 12, 9, 8, 12, 255, 0])


@pytest.fixture(scope="module")
def integer_model(trained, tmp_path_factory):
    export = pytest.importorskip("vitsd_export").export
    output = tmp_path_factory.mktemp("int8_io")
    return export(trained / "model.keras", ["tflite"], "int8", output, io="int8")[0].path


def test_a_model_with_integer_tensors_answers_like_the_one_with_float_tensors(
    integer_model, exported_model, digits
):
    integer, floating = (
        Classifier.load(integer_model),
        Classifier.load(exported_model("-int8.tflite", ".onnx")),
    )
    assert integer.engine.input_dtype == np.int8
    logits, expected = integer.logits(digits.images), floating.logits(digits.images)
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()
