"""Patches of ``.tflite`` files."""

import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

OPERATORS = schema.BuiltinOperator


@pytest.mark.parametrize("quantization", ["float32", "int8", "int8-full", "dynamic"])
def test_readers_of_the_older_field_find_the_same_operations(exported, quantization):
    content = bytearray((exported / f"digits-{quantization}.tflite").read_bytes())
    codes = flatbuffer_utils.read_model_from_bytearray(content).operatorCodes
    newer = OPERATORS.PLACEHOLDER_FOR_GREATER_OP_CODES
    assert [code.deprecatedBuiltinCode for code in codes] == [
        min(code.builtinCode, newer) for code in codes
    ]
