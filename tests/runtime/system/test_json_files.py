"""JSON of others is read within limits, or refused in one line."""

import json
import os
import threading
import tracemalloc

import pytest

from vitsd_runtime import UsageError, VitsdError
from vitsd_runtime.system.json_files import MAX_DEPTH, parse_json, read_json


def test_what_is_within_the_limits_is_read(tmp_path):
    value = {"a": [1, -2.5, "ä", None, True], "b": {}}
    assert parse_json(json.dumps(value), 1000) == value
    assert parse_json(json.dumps(value).encode(), 1000) == value
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse_json(deep, 1000)) == deep


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested more than 20 deep"),
        (b"[" * 21 + b"]" * 21, "nested more than 20 deep"),
        (b'{"a":' * 21 + b"0" + b"}" * 21, "nested more than 20 deep"),
        (b"NaN", "NaN is not a finite number"),
        (b"[-Infinity]", "-Infinity is not a finite number"),
        (b"1e999", "1e999 is not a finite number"),
        (b"9" * 5000, "a number has 5,000 digits"),
        (b'{"a": 1, "a": 2}', "an entry twice"),
        (b"\xff\xfe", "not a text file"),
        (b"", "Expecting value"),
        (b" " * 10_001 * 10, "larger than 100,000 bytes"),
    ],
)
def test_what_is_beyond_a_limit_is_named(tmp_path, content, reason):
    path = tmp_path / "a\n.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        parse_json(content, 100_000)
    with pytest.raises(UsageError, match=reason) as error:
        read_json(path, "a list", 100_000)
    assert str(error.value).isprintable()
    assert "is not a list: " in str(error.value)
    with pytest.raises(VitsdError) as error:
        read_json(path, "a list", 100_000, VitsdError)
    assert type(error.value) is VitsdError


def test_no_more_is_read_than_the_limit():
    tracemalloc.start()
    with pytest.raises(UsageError, match="larger than 100 bytes"):
        read_json("/dev/zero", "a list", 100)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_pipe_is_read_like_a_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("[1]",))
    writer.start()
    assert read_json(path, "a list", 100) == [1]
    writer.join()


@pytest.mark.parametrize("name", ["none.json", ".", "a\0b"])
def test_what_can_not_be_read_is_misuse(tmp_path, name):
    with pytest.raises(UsageError, match="can't be read"):
        read_json(f"{tmp_path}/{name}", "a list", 100)
