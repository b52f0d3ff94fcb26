"""``.onnx`` files: every field of every message, and nodes that no model of ours has."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper

from tools.fuzz.mutators import raw

_TEXTS = (
    "",
    "x" * 10_000,
    "\x1b[31mred\x1b[0m\nnext",
    "../../etc/passwd",
    "/dev/zero",
    "ai.onnx.ml",
)
_OPERATORS = [
    *("Loop", "If", "Scan", "ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "Cast"),
    *("Gather", "GatherND", "Scatter", "Reshape", "Slice", "Split", "Concat", "Transpose", "Gemm"),
    *("MatMul", "Conv", "NonZero", "RandomNormal", "SequenceEmpty", "Identity", "Softmax"),
]
_WEIGHTS = "raw_data"


def mutate(rng: Random, payload: bytes) -> bytes:
    """A model with changed fields or foreign nodes, or with damaged bytes."""
    choice = rng.random()
    if choice < 0.25:
        return raw.mutate(rng, payload)
    model = onnx.load_model_from_string(payload)
    if choice < 0.4:
        rng.choice(_FOREIGN)(rng, model)
    else:
        messages = list(_messages(model))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _change(rng, rng.choice(messages))
    changed: bytes = model.SerializeToString()
    return changed


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in value if field.is_repeated else (value,):
                yield from _messages(child)


def _change(rng: Random, message: Message) -> None:
    fields = [field for field, _ in message.ListFields()]
    if not fields or rng.random() < 0.15:
        fields = list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    try:
        if field.is_repeated:
            _change_repeated(rng, getattr(message, field.name), field)
        elif field.type == FieldDescriptor.TYPE_MESSAGE or rng.random() < 0.1:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _value(rng, field, getattr(message, field.name)))
    except (TypeError, ValueError):  # a number may not fit its field
        message.ClearField(field.name)


def _change_repeated(rng: Random, values: Any, field: FieldDescriptor) -> None:
    change = rng.randrange(4)
    if len(values) == 0:
        return
    at = rng.randrange(len(values))
    if change == 0:
        del values[at]
    elif change == 1:
        values.extend([values[at]] * rng.choice((1, 1, 100)))
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        _change(rng, values[at])
    else:
        values[at] = _value(rng, field, values[at])


def _value(rng: Random, field: FieldDescriptor, old: Any) -> Any:
    if field.name == "op_type":
        return rng.choice(_OPERATORS)
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return rng.choice((rng.choice(raw.NUMBERS), old + 1, old - 1, 2 * old))
    if isinstance(old, float):
        return rng.choice(raw.FLOATS)
    if isinstance(old, bytes):
        return rng.choice((b"", old[: len(old) // 2], old * 2, raw.mutate(rng, old)))
    return rng.choice(_TEXTS)


def _external_data(rng: Random, model: Any) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.ClearField(_WEIGHTS)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", rng.choice(("/etc/passwd", "../x", "x"))), ("length", "-1")):
        tensor.external_data.add(key=key, value=value)


def _endless_loop(rng: Random, model: Any) -> None:
    count = TensorProto.INT64
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["on_"]),
            helper.make_node("Identity", ["v"], ["v_"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", count, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on_", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_", TensorProto.FLOAT, None),
        ],
    )
    model.graph.initializer.append(helper.make_tensor("trips", count, [], [2**62]))
    _through(model, "Loop", ["trips", ""], {"body": body})


def _bomb(rng: Random, model: Any) -> None:
    """A few bytes that are gigabytes once they are computed, maybe while the model is loaded."""
    side = rng.choice((2**14, 2**15, 2**31))
    shape = helper.make_tensor("bomb_shape", TensorProto.INT64, [2], [side, side])
    model.graph.initializer.append(shape)
    nodes = [
        helper.make_node("ConstantOfShape", ["bomb_shape"], ["bomb"]),
        helper.make_node("ReduceMax", ["bomb"], ["bomb_max"], keepdims=0),
    ]
    old = model.graph.output[0].name
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    _rename_output(model, old)
    model.graph.node.append(helper.make_node("Add", ["inner_output", "bomb_max"], [old]))


def _tiled(rng: Random, model: Any) -> None:
    repeats = rng.choice(((1, 3), (3, 1), (2**20, 2**10), (0, 1), (1, 0)))
    model.graph.initializer.append(helper.make_tensor("repeats", TensorProto.INT64, [2], repeats))
    old = model.graph.output[0].name
    _rename_output(model, old)
    model.graph.node.append(helper.make_node("Tile", ["inner_output", "repeats"], [old]))


def _not_finite(rng: Random, model: Any) -> None:
    value = rng.choice((float("nan"), float("inf")))
    model.graph.initializer.append(helper.make_tensor("bad", TensorProto.FLOAT, [], [value]))
    old = model.graph.output[0].name
    _rename_output(model, old)
    model.graph.node.append(helper.make_node("Add", ["inner_output", "bad"], [old]))


def _strings(rng: Random, model: Any) -> None:
    side = rng.choice((model.graph.input, model.graph.output))
    side[0].type.tensor_type.elem_type = TensorProto.STRING


def _function(rng: Random, model: Any) -> None:
    inner = [helper.make_node("Identity", ["x"], ["y"])]
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], inner, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    old = model.graph.output[0].name
    _rename_output(model, old)
    model.graph.node.append(helper.make_node("F", ["inner_output"], [old], domain="own"))


def _through(model: Any, operator: str, before: list[str], attributes: dict[str, Any]) -> None:
    """Send the model's answer through one more node."""
    old = model.graph.output[0].name
    _rename_output(model, old)
    node = helper.make_node(operator, [*before, "inner_output"], [old], **attributes)
    model.graph.node.append(node)


def _rename_output(model: Any, old: str) -> None:
    for node in model.graph.node:
        node.output[:] = ["inner_output" if name == old else name for name in node.output]


_FOREIGN = (_external_data, _endless_loop, _bomb, _tiled, _not_finite, _strings, _function)
