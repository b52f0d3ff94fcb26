"""Whatever a signed statement holds, it is read or refused."""

import copy
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitsd_runtime import VitsdError
from vitsd_runtime.release import envelope
from vitsd_runtime.release.keys import encode, public_of
from vitsd_runtime.release.statements import read_index

pytest.importorskip("nacl")

SEED = os.urandom(32)
KEY = public_of(SEED)
FILE = {
    "name": "a.tflite",
    "size": 5,
    "sha256": "0" * 64,
    "format": "tflite",
    "engines": ["tensorflow"],
    "schema": 2,
}
RELEASE = {"channel": "cats", "version": 1, "created": 1, "files": [FILE], "runtime": "0"}
INDEX = {"channel": "cats", "serial": 1, "created": 1, "expires": 10**10}
KEYS = {"version": 1, "expires": 10**10, "release": [encode(KEY)], "index": [encode(KEY)]}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.just("\ud800\x1b"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def index(release=RELEASE, index=INDEX, keys=KEYS):
    offer = {"release": envelope.seal("release", release, SEED), "rollout": 10}
    sealed = envelope.seal("index", {"offers": [offer], **index}, SEED)
    return {**sealed, "keys": envelope.seal("keys", keys, SEED)}


def changed(content, name, value):
    content = copy.deepcopy(content)
    if name in FILE:
        content["files"][0][name] = value
    else:
        content[name] = value
    return content


def read(value):
    try:
        return read_index(value, [KEY], time.time())
    except VitsdError as error:
        return str(error)


def harmless(found):
    return not isinstance(found, str) or found.isprintable()


def test_the_good_one_is_read():
    assert read(index()).offers[0].release.files[0].size == 5


@given(st.sampled_from([*RELEASE, *FILE]), JSON)
def test_any_release(name, value):
    assert harmless(read(index(release=changed(RELEASE, name, value))))


@given(st.sampled_from([*INDEX, "offers"]), JSON)
def test_any_index(name, value):
    assert harmless(read(index(index=changed(INDEX, name, value))))


@given(st.sampled_from([*KEYS]), JSON)
def test_any_statement_of_keys(name, value):
    assert harmless(read(index(keys=changed(KEYS, name, value))))


@given(st.sampled_from(["payload", "payloadType", "signatures", "keys"]), JSON)
def test_any_envelope(name, value):
    assert harmless(read({**index(), name: value}))


@given(JSON)
def test_any_json(value):
    assert harmless(read(value))
