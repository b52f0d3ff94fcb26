"""An `.onnx` file is sound from its first byte to its logits, or no engine sees it."""

import contextlib
import os
import random
from pathlib import Path

import numpy as np
import pytest

from vitsd_runtime import VitsdError
from vitsd_runtime.spec import MAX_MODEL_BYTES
from vitsd_runtime.structure import limits
from vitsd_runtime.structure.check import check_structure

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

SAVED = Path(__file__).parents[1] / "data" / "schema1"
FLOAT, DYNAMIC = SAVED / "digits.onnx", SAVED / "digits-dynamic.onnx"
IMAGES = helper.make_tensor_value_info("images", 1, ["batch", 4, 4, 1])
LOGITS = helper.make_tensor_value_info("logits", 1, ["batch", 4])


def constant(name, values, dtype=np.int64):
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def node(kind, inputs, output, **options):
    return helper.make_node(kind, inputs.split(), output.split(), **options)


def model(*nodes, constants=(), images=IMAGES, logits=LOGITS, opset=17, **more):
    """A file that ends with an operation that makes ``logits``."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [images] if images else [],
        [logits] if logits else [],
        [constant("rows", [-1, 16]), constant("axes", [1]), *constants],
        **more,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def refusal(made):
    content = made if isinstance(made, bytes) else made.SerializeToString()
    with pytest.raises(VitsdError) as error:
        check_structure(content, "onnx")
    assert "\n" not in str(error.value)
    return str(error.value)


ROWS = node("Reshape", "images rows", "x")
WEIGHTS = constant("weights", np.ones((16, 4)), np.float32)
END = node("MatMul", "x weights", "logits")


def test_what_vitsd_exports_is_sound(exported):
    files = sorted(exported.glob("*.onnx"))
    assert files
    for path in (*files, *SAVED.glob("*.onnx")):
        check_structure(path, "onnx")
        check_structure(path.read_bytes(), "onnx")


def test_the_smallest_model_is_sound():
    check_structure(model(ROWS, END, constants=[WEIGHTS]).SerializeToString(), "onnx")


@pytest.mark.parametrize("path", [FLOAT, DYNAMIC], ids=lambda path: path.name)
def test_a_file_that_is_cut_off_anywhere_is_refused(path):
    content = path.read_bytes()
    end = content.rindex(b"vitsd.json") - 8  # of the model
    for size in (0, 1, 5, *range(9, end, end // 150)):
        assert "cut off" in refusal(content[:size]) or size > end - 200


@pytest.mark.parametrize("path", [FLOAT, DYNAMIC], ids=lambda path: path.name)
def test_noise_is_refused_or_harmless(path):
    chance = random.Random(0)
    content = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.choice((0, 127, 128, 255))
        with contextlib.suppress(VitsdError):
            check_structure(bytes(damaged), "onnx")


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (helper.make_tensor_value_info("logits", 8, ["n", 4]), "its output is type 8"),
        (helper.make_tensor_value_info("logits", 1, ["n", "m"]), "any"),
        (helper.make_tensor_value_info("logits", 1, ["n", 4, 1]), "logits are"),
        (helper.make_tensor_value_info("logits", 1, [3, 4]), "logits are"),
        (helper.make_tensor_value_info("logits", 1, ["n", 5]), "the file says"),
        (helper.make_tensor_sequence_value_info("logits", 1, ["n", 4]), "field 4"),
        (helper.make_tensor_value_info("images", 1, ["n", 4]), "refused"),
        (None, "0 outputs"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(logits, message):
    found = refusal(model(ROWS, END, constants=[WEIGHTS], logits=logits))
    assert message in found


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (helper.make_tensor_value_info("images", 1, ["n", "h", "w", 1]), "any"),
        (helper.make_tensor_value_info("images", 1, [7, 4, 4, 1]), "images are"),
        (helper.make_tensor_value_info("images", 1, None), "images are"),
        (helper.make_tensor_value_info("images", 8, ["n", 4, 4, 1]), "type 8"),
        (None, "0 inputs"),
    ],
)
def test_inputs_that_are_no_images_are_refused(images, message):
    assert message in refusal(model(ROWS, END, constants=[WEIGHTS], images=images))


@pytest.mark.parametrize("name", [b"weights", b"batch"])
def test_names_that_are_no_text_are_refused(name):
    content = model(ROWS, END, constants=[WEIGHTS]).SerializeToString()
    assert "no text" in refusal(content.replace(name, name[:-1] + b"\xe8"))


def test_a_second_input_is_refused():
    made = model(ROWS, END, constants=[WEIGHTS])
    made.graph.input.append(helper.make_tensor_value_info("more", 1, [1]))
    assert "2 inputs" in refusal(made)
    made.graph.input[1].name = "weights"  # older files list their constants there
    check_structure(made.SerializeToString(), "onnx")


def _loop():
    body = helper.make_graph([], "body", [], [])
    return node("Loop", "x x x", "y", body=body)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (_loop(), "operation Loop, which vitsd-export does not write (`allow_any_operation`)"),
        (node("Expand", "x axes", "y"), "operation Expand"),
        (node("Tile", "x axes", "y"), "operation Tile"),
        (node("ConstantOfShape", "axes", "y"), "operation ConstantOfShape"),
        (node("\x1b[2J\n", "x", "y"), r"operation \x1b[2J\n,"),
        (node("Relu", "x", "y", domain="com.evil"), "operation com.evil.Relu"),
        (node("Relu", "unmade", "y"), "no operation before it has made"),
        (node("Relu", "x", "x"), "has its values already"),
        (node("Relu", "x", "weights"), "has its values already"),
        (node("Relu", "x", "y", alpha=1.0), "an unknown option"),
        (node("Relu", "x", "y z"), "has 2 outputs"),
        (node("Add", "x", "y"), "has 1 inputs"),
        (node("Add", "x weights", "y"), "joins"),
        (node("Add", "x axes", "y"), "takes float32, int64"),
        (node("MatMul", "weights x", "y"), "multiplies"),
        (node("Gemm", "x weights", "y"), "has 2 inputs"),
        (node("Gemm", "x weights x", "y"), "adds a bias of shape"),
        (node("Gemm", "x weights x", "y", transB=1), "an unknown option"),
        (node("Transpose", "x", "y", perm=[0, 0]), "transposes"),
        (node("Transpose", "x", "y", perm=[1, 0]), "mixes the images"),
        (node("Concat", "x x", "y", axis=2), "an axis 2 of 2"),
        (node("ReduceSum", "x axes", "y", keepdims=2.0), "an unknown option"),
        (node("ReduceSum", "x x", "y"), "a few whole numbers"),
        (node("ReduceMean", "x", "y", axes=[1, 1]), "reduces"),
        (node("Reshape", "x zero", "y"), "reshapes"),
        (node("Reshape", "x long", "y"), "reshapes"),
        (node("Slice", "x axes axes axes", "y"), "cuts 1 to 1 out of 16"),
        (node("Slice", "x zero axes zero", "y"), "cuts a batch"),
        (node("Pad", "x axes", "y"), "pads"),
        (node("Pad", "x pads", "y"), "mixes the images"),
        (node("SpaceToDepth", "images", "y", blocksize=3), "into blocks of 3"),
        (node("Cast", "x", "y", to=8), "casts otherwise"),
        (node("LayerNormalization", "x weights", "y"), "a scale of another shape"),
        (node("LayerNormalization", "x weights", "y", axis=0), "another axis"),
        (node("DequantizeLinear", "x weights weights", "y"), "takes float32"),
        (node("MatMulInteger", "x weights x x", "y"), "multiplies float32"),
        (node("Softmax", "x", "y", axis=5), "an axis 5 of 2"),
        (node("GlobalAveragePool", "x", "y"), "takes a tensor of shape"),
    ],
)
def test_operations_that_fit_nothing_are_refused(step, message):
    constants = [
        WEIGHTS,
        constant("zero", [0]),
        constant("long", [2**62]),
        constant("pads", [1, 0, 0, 0]),
    ]
    assert message in refusal(model(ROWS, step, END, constants=constants))


KERNEL = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}


def test_a_convolution_is_sound():
    grid = node("Transpose", "images", "grid", perm=[0, 3, 1, 2])
    constants = [WEIGHTS, constant("kernel", np.ones((1, 1, 3, 3)), np.float32)]
    step = node("Conv", "grid kernel", "y", **KERNEL)
    check_structure(model(grid, step, ROWS, END, constants=constants).SerializeToString(), "onnx")
    for change, message in (
        ({"pads": [0, 0, 0, 0]}, "other margins"),
        ({"strides": [2, 2]}, "other margins"),
        ({"strides": [0, 0]}, "in steps of"),
        ({"group": 2}, "convolves"),
        ({"dilations": [2, 2]}, "unknown options"),
        ({"kernel_shape": [1, 1]}, "unknown options"),
        ({"auto_pad": 1}, "an unknown option"),
    ):
        step = node("Conv", "grid kernel", "y", **{**KERNEL, **change})
        assert message in refusal(model(grid, step, ROWS, END, constants=constants))


def test_an_option_is_given_once():
    step = node("Softmax", "x", "y", axis=-1)
    step.attribute.append(step.attribute[0])
    assert "an option twice" in refusal(model(ROWS, step, END, constants=[WEIGHTS]))


def test_options_with_long_lists_are_refused():
    step = node("Transpose", "x", "y", perm=[0] * 100)
    assert "a list of more than" in refusal(model(ROWS, step, END, constants=[WEIGHTS]))


def test_several_rows_for_one_image_are_refused():
    end = node("MatMul", "x weights", "y")
    twice = node("Concat", "y y", "logits", axis=0)
    assert "the file says" in refusal(model(ROWS, end, twice, constants=[WEIGHTS]))


def test_a_fixed_batch_of_one_is_sound():
    images = helper.make_tensor_value_info("images", 1, [1, 4, 4, 1])
    logits = helper.make_tensor_value_info("logits", 1, [1, 4])
    made = model(ROWS, END, constants=[WEIGHTS], images=images, logits=logits)
    check_structure(made.SerializeToString(), "onnx")


def _external(tensor):
    onnx.external_data_helper.set_external_data(tensor, "../secret.bin")


def _external_without_a_word(tensor):
    tensor.external_data.add(key="location", value="../secret.bin")


def _too_short(tensor):
    tensor.raw_data = tensor.raw_data[:-4]


def _too_many_numbers(tensor):
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 65)


def _both(tensor):
    tensor.float_data.extend([1.0] * 64)


def _of_no_size(tensor):
    tensor.dims[0] = 0


def _huge(tensor):
    tensor.dims[:] = [2**62, 4]


def _string(tensor):
    tensor.data_type = 8


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_external, "weights in another file"),
        (_external_without_a_word, "weights in another file"),
        (_too_short, "does not fit"),
        (_too_many_numbers, "does not fit"),
        (_both, "does not fit"),
        (_of_no_size, "does not fit"),
        (_huge, "does not fit"),
        (_string, "of type 8"),
    ],
)
def test_constants_that_are_not_what_they_say_are_refused(damage, message):
    made = model(ROWS, END, constants=[WEIGHTS])
    damage(next(tensor for tensor in made.graph.initializer if tensor.name == "weights"))
    assert message in refusal(made)


def test_numbers_may_stand_in_fields_of_their_type():
    made = model(ROWS, END, constants=[WEIGHTS])
    tensor = next(tensor for tensor in made.graph.initializer if tensor.name == "weights")
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 64)
    check_structure(made.SerializeToString(), "onnx")


def test_parts_that_vitsd_does_not_write_are_refused():
    made = model(ROWS, END, constants=[WEIGHTS])
    with_function, sparse, old = (
        onnx.ModelProto.FromString(made.SerializeToString()) for _ in "123"
    )
    with_function.functions.add(name="Relu", domain="own")
    sparse.graph.sparse_initializer.add()
    old.opset_import[0].version = 11
    assert "field 25" in refusal(with_function)
    assert "field 15" in refusal(sparse)
    assert "operator set 11" in refusal(old)
    content = made.SerializeToString()
    assert "field 7 twice" in refusal(content + content)  # protobuf would merge the two graphs
    assert "of one name" in refusal(model(ROWS, END, constants=[WEIGHTS, WEIGHTS]))


# Each limit on what a model may take refuses what would pass without it.


def test_results_that_fill_the_memory_are_refused():
    many = constant("many", np.ones((1, 1, 1, 5_000_000)), np.float32)
    wide = node("Add", "images many", "wide")  # 80 million numbers out of a file of 20 MB
    assert "intermediate results" in refusal(model(ROWS, wide, END, constants=[WEIGHTS, many]))


def test_memory_is_counted_while_it_is_needed_only():
    many = constant("many", np.ones((1, 1, 1, 1_500_000)), np.float32)
    last = "images"
    steps = []
    for i in range(6):  # each 96 MB
        steps.append(node("Add", f"{last} many", f"wide{i}"))
        last = f"wide{i}"
    check_structure(model(ROWS, *steps, END, constants=[WEIGHTS, many]).SerializeToString(), "onnx")


def test_work_without_end_is_refused():
    square = constant("square", np.ones((1, 1, 1200, 1200)), np.float32)
    steps = [node("MatMul", "square square", "y0")]
    steps += [node("MatMul", f"y{i} square", f"y{i + 1}") for i in range(20)]
    assert "the work for an image" in refusal(model(ROWS, *steps, END, constants=[WEIGHTS, square]))


def test_more_operations_than_any_model_has_are_refused():
    steps = [node("Relu", "x", f"y{i}") for i in range(limits.MAX_OPERATIONS)]
    assert "operations" in refusal(model(ROWS, *steps, END, constants=[WEIGHTS]))


def test_more_constants_than_any_model_has_are_refused():
    constants = [constant(f"c{i}", [1]) for i in range(limits.MAX_TENSORS)]
    assert "tensors" in refusal(model(ROWS, END, constants=[WEIGHTS, *constants]))


def test_tensors_of_many_dimensions_are_refused():
    deep = constant("deep", np.ones([1] * (limits.MAX_RANK + 1)), np.float32)
    assert "a list of more than" in refusal(model(ROWS, END, constants=[WEIGHTS, deep]))


def test_dimensions_that_no_engine_counts_are_refused():
    reshaped = node("Reshape", "x target", "y")
    target = constant("target", [1, limits.MAX_DIMENSION + 1])
    assert "reshapes" in refusal(model(ROWS, reshaped, END, constants=[WEIGHTS, target]))


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_a_file_larger_than_any_model_is_not_read(tmp_path, format):
    path = tmp_path / f"sparse.{format}"
    path.touch()
    os.truncate(path, MAX_MODEL_BYTES + 1)
    with pytest.raises(VitsdError, match="the limit is"):
        check_structure(path, format)
