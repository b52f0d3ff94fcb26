"""A `.tflite` file is sound from its first byte to its logits, or no engine sees it."""

import contextlib
import math
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from vitsd_runtime import VitsdError
from vitsd_runtime.models.catalog import bundled_model
from vitsd_runtime.structure import limits, onnx_rules, tflite
from vitsd_runtime.structure.check import check_structure
from vitsd_runtime.structure.flatbuffer import FlatBuffer
from vitsd_runtime.structure.graph import FlawError, Operation, Quantization, Tensor
from vitsd_runtime.structure.tflite_rules import RULES

SAVED = Path(__file__).parents[1] / "data" / "schema1"
FLOAT, INT8 = SAVED / "digits-float32.tflite", SAVED / "digits-int8-full.tflite"


@pytest.fixture
def tools():
    """The engine's own classes for the parts of a file."""
    return pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")


@pytest.fixture
def changed(tools):
    """A function that changes parts of a file and writes them to bytes."""

    def change(path, damage):
        model = tools.read_model_from_bytearray(bytearray(path.read_bytes()))
        damage(model)
        return bytes(tools.convert_object_to_bytearray(model))

    return change


def operation(model, kind):
    """The first operation of a kind, by the kind's number."""
    return next(
        step
        for step in model.subgraphs[0].operators
        if max(
            model.operatorCodes[step.opcodeIndex].builtinCode,
            model.operatorCodes[step.opcodeIndex].deprecatedBuiltinCode,
        )
        == kind
    )


def tensor(model, kind, number=0, of="inputs"):
    """An input or output of the first operation of a kind."""
    return model.subgraphs[0].tensors[getattr(operation(model, kind), of)[number]]


def constant(model, kind, number, values):
    """Give an operation another constant of int32."""
    buffer = model.buffers[tensor(model, kind, number).buffer]
    buffer.data = np.frombuffer(np.array(values, np.int32).tobytes(), np.uint8)


def set_scale(tensor, *scales):
    tensor.quantization.scale = np.array(scales, np.float32)
    tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)


ADD, FULLY_CONNECTED, RESHAPE, SPACE_TO_DEPTH, PAD = 0, 9, 22, 26, 34
TRANSPOSE, MEAN, STRIDED_SLICE, SPLIT = 39, 40, 45, 49


def test_what_vitsd_exports_is_sound(exported):
    files = sorted(exported.glob("*.tflite"))
    assert files
    for path in (*files, *SAVED.glob("*.tflite"), bundled_model()):
        check_structure(path, "tflite")
        check_structure(path.read_bytes(), "tflite")


def test_kinds_and_types_have_the_schemas_numbers():
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    options = {
        "MEAN": "ReducerOptions",
        "SUM": "ReducerOptions",
        "RSQRT": "NONE",
        "BATCH_MATMUL": "BatchMatMulOptions",
    }
    for number, kind in tflite._KINDS.items():  # noqa: SLF001 - the table under test
        assert getattr(schema.BuiltinOperator, kind.name) == number
        usual = kind.name.title().replace("_", "") + "Options"
        name = options.get(kind.name, usual)
        assert getattr(schema.BuiltinOptions, name) == kind.table
    for number, (name, _) in tflite._TYPES.items():  # noqa: SLF001
        assert getattr(schema.TensorType, name.upper()) == number


@pytest.mark.parametrize("path", [FLOAT, INT8], ids=lambda path: path.name)
def test_a_file_that_is_cut_off_anywhere_is_refused(path):
    content = path.read_bytes()
    end = content.rindex(b"PK\x03\x04")  # of the flatbuffer
    for size in (0, 3, 7, 8, *range(9, end - 64, end // 150)):
        with pytest.raises(VitsdError, match=r"damaged or cut off|not a TFLite model"):
            check_structure(content[:size], "tflite")


@pytest.mark.parametrize("path", [FLOAT, INT8], ids=lambda path: path.name)
def test_noise_is_refused_or_harmless(path):
    chance = random.Random(0)
    content = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            place = 4 * chance.randrange(len(damaged) // 4)
            values = (0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1, chance.randrange(2**32))
            damaged[place : place + 4] = chance.choice(values).to_bytes(4, "little")
        with contextlib.suppress(VitsdError):
            check_structure(bytes(damaged), "tflite")


def _no_scale(model):
    tensor(model, ADD).quantization = None


def _endless(model):
    tensor(model, ADD).quantization.scale = np.array([math.inf], np.float32)


def _outside(model):
    model.buffers[-1].offset, model.buffers[-1].size = 10**6, 100


def _variable(model):
    model.subgraphs[0].tensors[3].isVariable = True


def _unknown_metadata(model):
    model.metadata[0].name = b"model_control_dependencies"


def _no_text(model):
    model.subgraphs[0].tensors[0].name = b"images\xe8"


def _own_quantization(model):
    tensor(model, ADD).quantization.detailsType = 1


def _reads_nothing(model):
    operation(model, ADD).inputs = np.array([], np.int32)


def _two_graphs(model):
    model.subgraphs.append(model.subgraphs[0])


def _two_inputs(model):
    graph = model.subgraphs[0]
    graph.inputs = np.array([*graph.inputs, 5], np.int32)


def _no_output(model):
    model.subgraphs[0].outputs = np.array([], np.int32)


def _nothing_at_all(model):
    model.subgraphs[0].tensors, model.subgraphs[0].operators = [], []


def _nothing_makes_the_output(model):
    model.subgraphs[0].operators = []


def _signature_with_another_output(model):
    model.signatureDefs[0].outputs[0].tensorIndex = 3


def _a_scalar_instead_of_weights(model):
    tensor(model, FULLY_CONNECTED, 1).shape = np.array([], np.int32)


def _half_the_weights(model):
    buffer = model.buffers[tensor(model, FULLY_CONNECTED, 1).buffer]
    buffer.data = buffer.data[: buffer.data.size // 2]


def _foreign_signature(model):
    model.signatureDefs[0].inputs[0].tensorIndex = 10**6


def _any_size(model):
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shapeSignature = np.array([-1, -1, -1, 1], np.int32)


def _custom(model):
    model.operatorCodes[0].customCode = b"evil"


def _while(model):
    model.operatorCodes[0].builtinCode = 119
    model.operatorCodes[0].deprecatedBuiltinCode = 119


def _backwards(model):
    model.subgraphs[0].operators.reverse()


def _writes_a_constant(model):
    operation(model, ADD).outputs = operation(model, FULLY_CONNECTED).inputs[1:2]


def _writes_twice(model):
    model.subgraphs[0].operators.append(model.subgraphs[0].operators[-1])


def _no_block(model):
    operation(model, SPACE_TO_DEPTH).builtinOptions.blockSize = 0


def _other_options(model):
    step = operation(model, SPACE_TO_DEPTH)
    step.builtinOptionsType, step.builtinOptions = 0, None


def _one_input(model):
    operation(model, RESHAPE).inputs = operation(model, RESHAPE).inputs[:1]


def _step_back(model):
    constant(model, STRIDED_SLICE, 3, [1, 0, 1, 1])


def _huge_weights(model):
    # Byte for byte as many, but multiplied with an image of another length.
    weights = tensor(model, FULLY_CONNECTED, 1)
    weights.shape = np.array([weights.shape[0] * weights.shape[1], 1], np.int32)


@pytest.mark.parametrize(
    ("path", "damage", "message"),
    [
        (INT8, _no_scale, "without a scale"),
        (INT8, _endless, "a scale of inf"),
        (INT8, lambda m: set_scale(tensor(m, ADD), 1, 1), "2 scales"),
        (INT8, lambda m: set_scale(tensor(m, FULLY_CONNECTED, of="outputs"), 1e-12), "rescales"),
        (INT8, lambda m: set_scale(tensor(m, ADD, of="outputs"), 1e-12), "rescales"),
        (FLOAT, _outside, "outside of its FlatBuffer"),
        (FLOAT, _variable, "sparse or variable"),
        (FLOAT, _unknown_metadata, "model_control_dependencies"),
        (FLOAT, _no_text, "a name that is no text"),
        (INT8, _own_quantization, "a quantization of its own"),
        (FLOAT, _reads_nothing, "no inputs or no outputs"),
        (FLOAT, _two_graphs, "exactly one graph"),
        (FLOAT, _two_inputs, "2 inputs"),
        (FLOAT, _no_output, "0 outputs"),
        (FLOAT, _foreign_signature, "other inputs or outputs"),
        (FLOAT, _signature_with_another_output, "other inputs or outputs"),
        (FLOAT, _nothing_at_all, "none of its 0"),
        (FLOAT, _nothing_makes_the_output, "nothing makes its output"),
        (FLOAT, _a_scalar_instead_of_weights, "bytes for float32"),
        (FLOAT, _half_the_weights, "bytes for float32"),
        (FLOAT, _any_size, r"its input is float32 \(-1, -1, -1, 1\)"),
        (FLOAT, _custom, "`allow_any_operation`"),
        (FLOAT, _while, "operation 119"),
        (FLOAT, _backwards, "no operation before it has made"),
        (FLOAT, _writes_a_constant, "writes a constant"),
        (FLOAT, _writes_twice, "has its values already"),
        (FLOAT, _no_block, "into blocks of 0"),
        (FLOAT, _other_options, "options of another operation"),
        (FLOAT, _one_input, r"RESHAPE\) has 1 inputs"),
        (FLOAT, _step_back, "in another way"),
        (FLOAT, _huge_weights, "multiplies"),
        (FLOAT, lambda m: constant(m, RESHAPE, 1, [-1, -1, 5]), "reshapes"),
        (FLOAT, lambda m: constant(m, MEAN, 1, [7]), "an axis 7 of 3"),
        (FLOAT, lambda m: constant(m, TRANSPOSE, 1, [0, 1, 1, 3]), "transposes"),
        (FLOAT, lambda m: constant(m, PAD, 1, [[0, 0], [-9, 0], [0, 0], [0, 0]]), "pads"),
        (FLOAT, lambda m: constant(m, PAD, 1, [[0, 0], [2, 2]]), "16 bytes for int32|bytes for"),
        (INT8, lambda m: constant(m, SPLIT, 0, [0]), "the file says"),
        (FLOAT, lambda m: setattr(tensor(m, MEAN), "type", 5), "of type 5"),
        (FLOAT, lambda m: setattr(tensor(m, MEAN), "buffer", 10**6), "in buffer 1000000"),
        (
            FLOAT,
            lambda m: setattr(tensor(m, MEAN), "shape", np.array([1, 9, 0], np.int32)),
            "of type 0 and shape",
        ),
        (FLOAT, lambda m: setattr(operation(m, ADD), "opcodeIndex", 99), "of no kind"),
        (FLOAT, lambda m: setattr(operation(m, ADD), "inputs", [10**6, 1]), "none of its"),
        (FLOAT, lambda m: setattr(operation(m, ADD), "inputs", [-1, 1]), "has 1 inputs"),
        (FLOAT, lambda m: setattr(m.subgraphs[0], "outputs", [-1]), "none of its"),
    ],
)
def test_what_would_harm_an_engine_is_refused(changed, path, damage, message):
    content = changed(path, damage)
    with pytest.raises(VitsdError, match=message) as error:
        check_structure(content, "tflite")
    assert "\n" not in str(error.value)


def test_what_is_rewritten_without_a_change_is_sound(changed):
    for path in (FLOAT, INT8):
        check_structure(changed(path, lambda model: None), "tflite")


def test_offsets_out_of_the_file_are_refused_wherever_they_are():
    for path in (FLOAT, INT8):
        content = path.read_bytes()
        root = int.from_bytes(content[:4], "little")
        for place in range(0, root + 4096, 4):
            damaged = bytearray(content)
            damaged[place : place + 4] = (0x7FFFFFFC).to_bytes(4, "little")
            with contextlib.suppress(VitsdError):
                check_structure(bytes(damaged), "tflite")


def test_vectors_beyond_the_end_are_refused():
    file = FlatBuffer(bytes(4) + (100).to_bytes(4, "little") + bytes(8))
    for read in (lambda v: file.span(v, 1), lambda v: file.numbers(v, "i", 1000), file.text):
        for vector in (4, 14, 16, 400):
            with pytest.raises(FlawError):
                read(vector)
    assert file.numbers(8, "i", 0) == ()


def test_parts_that_many_tables_can_share_have_a_limit():
    file = FlatBuffer((10**6).to_bytes(4, "little") * 2 + bytes(8 * 10**6))
    for read in (
        lambda: file.numbers(4, "i", limits.MAX_ENDS),
        lambda: file.extent(4, "q", limits.MAX_SCALES),
        lambda: file.text(4),
    ):
        with pytest.raises(FlawError, match="1,000,000"):
            read()


def test_softmax_quantize_and_dequantize_refuse_what_their_kernels_divide_by():
    scores = Tensor("int8", (1, 4), Quantization(1, 1e-9, 1e-9, False, 0))
    step = Operation("SOFTMAX", (0,), (1,), {"beta": 1.0})
    with pytest.raises(FlawError, match="too small"):
        RULES["SOFTMAX"](step, [scores], [scores])
    fine, coarse = (Tensor("int8", (1, 4), Quantization(1, s, s, False, 0)) for s in (1e-9, 1e9))
    with pytest.raises(FlawError, match="rescales by"):
        RULES["QUANTIZE"](Operation("QUANTIZE", (0,), (1,), {}), [coarse], [fine])
    half = Tensor("float16", (1, 4))
    with pytest.raises(FlawError, match="takes float16"):
        RULES["DEQUANTIZE"](Operation("DEQUANTIZE", (0,), (1,), {}), [half], [half])


@pytest.mark.parametrize("indices", [(0, 3), (-1,), ()])
def test_gather_refuses_what_is_not_there(indices):
    image, picked = Tensor("float32", (1, 3, 8, 1)), Tensor("float32", (1, 2, 8, 1))
    chosen = Tensor("int32", (len(indices),), None, True, indices)
    for rules, kind in ((RULES, "GATHER"), (onnx_rules.RULES, "Gather")):
        options = {"axis": 1, "batch_dims": 0} if kind == "GATHER" else {"axis": 1}
        step = Operation(kind, (0, 1), (2,), options)
        with pytest.raises(FlawError, match="not among 3"):
            rules[kind](step, [image, chosen], [picked])
        good = chosen._replace(shape=(2,), values=(2, 0))
        assert rules[kind](step, [image, good], [picked])[0].shape == picked.shape


TABLE = Tensor("int8", (256,), Quantization(1, 0.1, 0.1, False, 0), True)
CODES = TABLE._replace(shape=(4, 7), constant=False)
INDICES = Tensor("int32", (4, 7))
FIRST = Tensor("int32", (1,), None, True, (128,))


@pytest.mark.parametrize(
    ("kind", "inputs", "options", "made"),
    [
        ("CAST", [CODES], {}, "int32"),
        ("CAST", [TABLE._replace(dtype="int64")], {}, None),
        ("ADD", [INDICES, FIRST], {"activation": 0}, "int32"),
        ("ADD", [INDICES, INDICES], {"activation": 0}, None),
        ("SUB", [INDICES, FIRST], {"activation": 0}, None),
        ("GATHER", [TABLE, INDICES], {"axis": 0, "batch_dims": 0}, "int8"),
        ("GATHER", [TABLE, CODES], {"axis": 0, "batch_dims": 0}, None),
        ("GATHER", [TABLE, INDICES], {"axis": 0, "batch_dims": 1}, None),
        ("GATHER", [TABLE._replace(constant=False), INDICES], {"axis": 0, "batch_dims": 0}, None),
    ],
)
def test_integers_are_looked_up_in_tables(kind, inputs, options, made):
    step = Operation(kind, tuple(range(len(inputs))), (9,), options)
    declared = [CODES if made == "int8" else INDICES]
    if made is None:
        with pytest.raises(FlawError):
            RULES[kind](step, inputs, declared)
    else:
        (output,) = RULES[kind](step, inputs, declared)
        assert (output.dtype, output.shape) == (made, (4, 7))


CONVOLUTION = {
    "padding": 0,
    "columns": 2,
    "rows": 2,
    "activation": 1,
    "apart_x": 0,
    "apart_y": 0,
    "bias_type": 0,
}


def convolution(kind="CONV_2D", image=(1, 8, 7, 3), weights=(5, 3, 3, 3), bias=None, **options):
    """The shape that a convolution makes."""
    multiplier = {"multiplier": 1} if kind == "DEPTHWISE_CONV_2D" else {}
    step = Operation(kind, (0, 1, 2), (3,), {**CONVOLUTION, **multiplier, **options})
    bias = bias or weights[:1] if kind == "CONV_2D" else weights[3:]
    shapes = (image, weights, bias)
    inputs = [Tensor("float32", shape, None, i > 0) for i, shape in enumerate(shapes)]
    (made,) = RULES[kind](step, inputs, [Tensor("float32", ())])
    return made.shape


def test_convolutions_make_what_their_strides_leave():
    assert convolution() == (1, 4, 4, 5)
    assert convolution(rows=1, columns=1) == (1, 8, 7, 5)
    assert convolution("DEPTHWISE_CONV_2D", weights=(1, 3, 3, 3)) == (1, 4, 4, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": 1}, "unknown options"),
        ({"apart_x": 2}, "unknown options"),
        ({"apart_x": 1}, "unknown options"),
        ({"activation": 4}, "unknown options"),
        ({"rows": 1}, "in steps of"),
        ({"rows": 0, "columns": 0}, "in steps of"),
        ({"image": (1, 8, 3)}, "convolves"),
        ({"image": (1, 8, 7, 4)}, "convolves"),
        ({"image": (1, 2**20, 2**20, 3)}, "convolves"),
        ({"weights": (5, 3, 3, 1)}, "convolves"),
        ({"weights": (5, 5, 5, 3)}, "in steps of"),
        ({"weights": (5, 3, 3)}, "weights of shape"),
        ({"bias": (4,)}, "adds float32"),
        ({"kind": "DEPTHWISE_CONV_2D"}, "a multiplier"),
        ({"kind": "DEPTHWISE_CONV_2D", "weights": (1, 3, 3, 6), "multiplier": 2}, "a multiplier"),
        ({"kind": "DEPTHWISE_CONV_2D", "weights": (1, 3, 3, 6)}, "convolves"),
    ],
)
def test_convolutions_that_fit_nothing_are_refused(changes, message):
    with pytest.raises(FlawError, match=message):
        convolution(**changes)


def test_weights_of_a_type_at_which_the_engine_crashes_are_refused():
    with pytest.raises(VitsdError, match="int8 weights, at which the installed engine"):
        check_structure(INT8, "tflite", unsafe_dtypes=["int8"])
    check_structure(INT8, "tflite", unsafe_dtypes=["int4"])


def test_a_vector_that_claims_to_be_huge_takes_no_memory(tmp_path):
    # A root table whose subgraphs are said to be four billion.
    vtable = (
        (12).to_bytes(2, "little") + (8).to_bytes(2, "little") + bytes(4) + b"\x04\x00" + bytes(2)
    )
    table = (12).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"\xff\xff\xff\xff"
    content = (20).to_bytes(4, "little") + b"TFL3" + vtable + table + bytes(64)
    (tmp_path / "huge.tflite").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(VitsdError, match=r"4,294,967,295 entries|cut off"):
        check_structure(tmp_path / "huge.tflite", "tflite")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
