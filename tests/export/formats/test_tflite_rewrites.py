"""Operations written in others: the same integers come out."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vitsd_export.formats.tflite_rewrites import REWRITTEN, rewrite
from vitsd_export.formats.tflite_schema import (
    add_tensor,
    new_operation,
    operation_versions,
    serialize_model,
)
from vitsd_runtime import preprocess, read_spec
from vitsd_runtime.engines import load_engine

SCALES = st.floats(2.0**-10, 0.5, width=32)
ZERO_POINTS = st.integers(-128, 127)


def one_operation(options, shape, result, before=(0.05, 3), after=(0.05, 3), version=1):
    """A model of one operation, int8 to int8."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    model.subgraphs, graph.tensors = [graph], []
    ends = []
    for name, dims, (scale, zero_point) in (("in", shape, before), ("out", result, after)):
        quantization = schema.QuantizationParametersT()
        quantization.scale = np.array([scale], np.float32)
        quantization.zeroPoint = np.array([zero_point])
        ends.append(add_tensor(model, graph, name, dims, "int8", quantization))
    graph.operators = [new_operation(model, options, ends[:1], ends[1:], version)]
    graph.inputs, graph.outputs = (np.array([end], np.int32) for end in ends)
    return serialize_model(model)


def run(content, codes):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], codes)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_model_gives_the_same_logits(exported, digits, name):
    path = exported / "digits-int8-full.tflite"
    content = path.read_bytes()
    rewritten = rewrite(content, [name])
    assert name in operation_versions(content)
    assert name not in operation_versions(rewritten)
    images = preprocess(digits.images[:50], read_spec(path))
    logits = [load_engine(model, "tflite").run(images) for model in (content, rewritten)]
    np.testing.assert_array_equal(*logits)


def test_nothing_is_written_anew_where_nothing_has_to():
    assert rewrite(b"any", ()) == b"any"


@settings(max_examples=30)
@given(SCALES, ZERO_POINTS, SCALES, ZERO_POINTS)
@example(0.05, -128, 0.05, 127)
def test_gelu_is_that_of_litert_for_every_integer(scale, zero_point, to_scale, to_zero_point):
    codes = np.arange(-128, 128, dtype=np.int8)[None]
    ends = {"before": (scale, zero_point), "after": (to_scale, to_zero_point)}
    content = one_operation(schema.GeluOptionsT(), (1, 256), (1, 256), **ends, version=2)
    difference = run(content, codes).astype(int) - run(rewrite(content, ["GELU"]), codes)
    # The kernel computes in float32, so that it may take the other of two equally near integers.
    assert np.abs(difference).max() <= 1
    assert np.count_nonzero(difference) <= 1


@pytest.mark.parametrize("shape", [(1, 10), (13, 7), (64, 384), (1, 1, 5000), (3, 17011)])
def test_large_activations_are_looked_up_part_by_part(shape):
    codes = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    content = one_operation(schema.GeluOptionsT(), shape, shape, version=2)
    rewritten = rewrite(content, ["GELU"])
    np.testing.assert_array_equal(run(rewritten, codes), run(content, codes))
    versions = operation_versions(rewritten)
    divisible = any(size % n == 0 for size in shape for n in range(2, 9))
    assert ("SPLIT" in versions) == (np.prod(shape) > 2048 and divisible)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 7))
def test_patches_are_cut_alike(rows, columns, channels, size):
    shape = (1, rows * size, columns * size, channels)
    options = schema.SpaceToDepthOptionsT()
    options.blockSize = size
    content = one_operation(options, shape, (1, rows, columns, size * size * channels))
    codes = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    rewritten = rewrite(content, ["SPACE_TO_DEPTH"])
    np.testing.assert_array_equal(run(rewritten, codes), run(content, codes))
