"""Every tensor of an integer graph is in the group that its scope names, whatever the model."""

import collections

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from small_models import CONFIGS, make_quantizer

from vitsd_export.formats.tflite_schema import read_constants
from vitsd_export.graph.integer_graph import TensorGroup
from vitsd_export.quantization.ranges import MINMAX, RangeMethod
from vitsd_export.quantization.recipe import LayerChoice
from vitsd_export.quantization.tflite import GROUP_METHODS
from vitsd_runtime import VitsdError
from vitsd_runtime.engines import load_engine


def tensors(content):
    """Names of the float tensors that are computed."""
    constants = read_constants(content)
    details = Interpreter(model_content=content).get_tensor_details()
    return [
        tensor["name"]
        for tensor in details
        if tensor["dtype"] == np.float32 and tensor["name"] and tensor["name"] not in constants
    ]


@pytest.mark.parametrize("options", CONFIGS.values(), ids=list(CONFIGS))
def test_every_tensor_is_in_a_group(options, tmp_path):
    quantizer, images = make_quantizer(tmp_path / "model", **options)
    minmax = {name: LayerChoice("static", MINMAX) for name in GROUP_METHODS}
    content = quantizer.build_integer(minmax)  # raises where a tensor is in none
    assert np.isfinite(load_engine(content, "tflite").run(images)).all()
    groups = collections.Counter(map(quantizer.tensor_group, tensors(quantizer.float_model)))
    absent = set(GROUP_METHODS) - set(groups)
    assert absent <= {"patches", "first norm", "second norm", "activations"}
    if options.get("spt", True):
        assert groups["first norm"] == 1
    if options.get("activation") != "relu":  # a ReLU is a part of its dense layer
        others = (*options.get("head_units", ()), *options.get("stem_filters", ()))
        assert groups["activations"] == 2 * options.get("num_layers", 1) + len(others)


@pytest.mark.parametrize(("precision", "inputs"), [("static", np.int8), ("int4", np.float32)])
def test_convolutions_are_quantized_as_dense_layers_are(precision, inputs, tmp_path):
    options = {**CONFIGS["convolutions"], "image_size": 16, "input_size": (16, 16, 1)}
    quantizer, images = make_quantizer(tmp_path / "model", masks=None, **options)
    layers = {name: LayerChoice(precision, MINMAX) for name in ("convolution_0", "tokenization")}
    content = quantizer.build(layers)
    expected = load_engine(quantizer.float_model, "tflite").run(images)
    result = load_engine(content, "tflite").run(images)
    np.testing.assert_allclose(result, expected, atol=0.1 * expected.std())
    interpreter = Interpreter(model_content=content)
    types = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    convolutions = [
        [types[index] for index in step["inputs"][:2]]
        for step in interpreter._get_ops_details()  # noqa: SLF001 - there is no public way
        if step["op_name"] == "CONV_2D"
    ]
    assert convolutions == 2 * [[inputs, np.int8]]


def test_patches_of_another_range_than_the_images_make_a_sound_file(tmp_path):
    quantizer, images = make_quantizer(tmp_path / "model", **CONFIGS["as tiny"])
    choices = {name: LayerChoice("static", MINMAX) for name in GROUP_METHODS}
    choices["patches"] = LayerChoice("static", RangeMethod.parse("max/4"))
    engine = load_engine(quantizer.build_integer(choices), "tflite")
    assert np.isfinite(engine.run(images)).all()
    # From the images' scale to that of the patches.
    assert engine.describe()["operations"]["QUANTIZE"] > 0


def test_a_tensor_that_nobody_named_is_an_error(tmp_path):
    quantizer, _ = make_quantizer(tmp_path / "model", **CONFIGS["as tiny"])
    assert quantizer.tensor_group("residual_stream/add_3") == "residual stream"
    assert quantizer.tensor_group("block_0_query/MatMul;block_0_query/add") == "dense outputs"
    for name in ("add", "Mean_4", "others/add", "mul_6;;mul_4;mul_5;Erf;add_4"):
        with pytest.raises(VitsdError, match="is in no group"):
            quantizer.tensor_group(name)


def test_every_group_has_methods_to_try():
    assert set(GROUP_METHODS) == {group.value for group in TensorGroup}
