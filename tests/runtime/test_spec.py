import json

import pytest

from vitsd_runtime import ModelSpec, VitsdError
from vitsd_runtime.spec import MAX_JSON_BYTES


def changed(spec, **changes):
    return json.dumps({**json.loads(spec.to_json()), **changes})


def test_json_round_trip(spec):
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_unknown_fields_of_the_same_schema_are_ignored(spec):
    assert ModelSpec.from_json(changed(spec, comment="later addition")) == spec


def test_a_newer_schema_is_named_with_the_way_out(spec):
    with pytest.raises(VitsdError, match=r"schema version 99.*upgrade"):
        ModelSpec.from_json(changed(spec, schema_version=99))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../etc/passwd"},
        {"name": ""},
        {"class_names": ["only"]},
        {"class_names": [1, 2]},
        {"class_names": None},
        {"input_size": [32, 32]},
        {"input_size": [32, 32, 4]},
        {"input_size": [0, 32, 3]},
        {"image_size": 10**9},
        {"mean": [1.0]},
        {"mean": [float("nan")] * 3},
        {"variance": [-1.0, 1.0, 1.0]},
        {"resize_method": "lanczos"},
        {"fit": "squash"},
        {"export": "none"},
        {"schema_version": "1"},
    ],
)
def test_unusable_values_are_refused(spec, changes):
    with pytest.raises(VitsdError):
        ModelSpec.from_json(changed(spec, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "{}", " " * (MAX_JSON_BYTES + 1)])
def test_what_is_no_spec_is_refused(text):
    with pytest.raises(VitsdError):
        ModelSpec.from_json(text)


def test_a_missing_field_is_named(spec):
    values = json.loads(spec.to_json())
    del values["mean"]
    with pytest.raises(VitsdError, match="mean"):
        ModelSpec.from_json(json.dumps(values))
