import contextlib
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitsd_runtime import ModelSpec, VitsdError
from vitsd_runtime.spec import (
    MAX_JSON_BYTES,
    MAX_MODEL_BYTES,
    MAX_SIDE,
    Architecture,
    Provenance,
)
from vitsd_runtime.spec.limits import (
    MAX_CLASSES,
    MAX_DENSE_LAYERS,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_UNITS,
)


def changed(spec, **changes):
    return json.dumps({**json.loads(spec.to_json()), **changes})


def test_json_round_trip(spec):
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_a_subclass_of_the_architecture_is_stored_as_one(spec):
    class Config(Architecture):
        pass

    stored = spec.replace(architecture=Config(hidden_dim=64))
    assert type(stored.architecture) is Architecture
    assert ModelSpec.from_json(stored.to_json()) == stored
    assert spec.replace(architecture={}).architecture is None


def test_unknown_fields_of_the_same_schema_are_ignored(spec):
    assert ModelSpec.from_json(changed(spec, comment="later addition")) == spec


def test_a_newer_schema_is_named_with_the_way_out(spec):
    with pytest.raises(VitsdError, match=r"schema version 99.*upgrade"):
        ModelSpec.from_json(changed(spec, schema_version=99))


def test_a_value_range_is_not_passed_over_by_older_runtimes(spec):
    assert json.loads(spec.to_json())["schema_version"] == 2
    ranged = spec.replace(value_range=(0, 4095))
    stored = json.loads(ranged.to_json())
    assert (stored["schema_version"], stored["value_range"]) == (3, [0.0, 4095.0])
    assert ModelSpec.from_json(ranged.to_json()) == ranged


def test_later_options_are_not_passed_over_by_older_runtimes(spec):
    usual = {"spt": False, "patch_size": 4}
    old = spec.replace(architecture=Architecture(**usual))
    stored = json.loads(old.to_json())
    assert stored["schema_version"] == 2
    later = {"stem_filters", "mlp_convolution", "mlp_output_activation", "pool_tokens_after"}
    assert not later & set(stored["architecture"])
    for options, version in (
        ({"stem_filters": (8,)}, 5),
        ({"mlp_convolution": True}, 5),
        ({"mlp_output_activation": False}, 5),
        ({"stem_filters": (8,), "pool_tokens_after": 1}, 6),
    ):
        new = spec.replace(architecture=Architecture(**usual, **options))
        assert json.loads(new.to_json())["schema_version"] == version
        assert ModelSpec.from_json(new.to_json()) == new


def test_a_reducing_gap_is_not_passed_over_by_older_runtimes(spec):
    for changes in ({}, {"value_range": (0, 4095)}):
        reduced = spec.replace(reducing_gap=2, **changes)
        stored = json.loads(reduced.to_json())
        assert (stored["schema_version"], stored["reducing_gap"]) == (4, 2.0)
        assert ModelSpec.from_json(reduced.to_json()) == reduced


@pytest.mark.parametrize(
    "changes",
    [
        {"reducing_gap": 0.5},
        {"reducing_gap": 1000},
        {"reducing_gap": float("nan")},
        {"reducing_gap": "2"},
        {"reducing_gap": [2]},
        {"value_range": [1, 1]},
        {"value_range": [0, float("inf")]},
        {"value_range": [0, 1, 2]},
        {"value_range": 5},
        {"name": "../../etc/passwd"},
        {"name": ""},
        {"class_names": "cat"},
        {"input_size": "883"},
        {"image_size": 8.9},
        {"mean": "1"},
        {"class_names": ["only"]},
        {"class_names": [1, 2]},
        {"class_names": None},
        {"input_size": [32, 32]},
        {"input_size": [32, 32, 4]},
        {"input_size": [0, 32, 3]},
        {"image_size": 10**9},
        {"image_size": MAX_SIDE + 1},
        {"input_size": [MAX_SIDE + 1, 8, 3]},
        {"input_size": [8, MAX_SIDE + 1, 3]},
        {"class_names": [str(i) for i in range(MAX_CLASSES + 1)]},
        {"architecture": {"num_layers": MAX_LAYERS + 1}},
        {"architecture": {"\u001b[31mred\nor not": 1}},
        {"architecture": {"num_heads": MAX_HEADS + 1}},
        {"architecture": {"patch_size": MAX_SIDE + 1}},
        {"architecture": {"key_dim": MAX_UNITS + 1}},
        {"architecture": {"hidden_dim": MAX_UNITS + 1, "mlp_units": [MAX_UNITS + 1]}},
        {"architecture": {"head_units": [MAX_UNITS + 1]}},
        {"architecture": {"head_units": [8] * (MAX_DENSE_LAYERS + 1)}},
        {"architecture": {"mlp_units": [64] * (MAX_DENSE_LAYERS + 1)}},
        {"integrity": {"size": 0, "sha256": "0" * 64}},
        {"integrity": {"size": MAX_MODEL_BYTES + 1, "sha256": "0" * 64}},
        {"integrity": {"size": 1, "sha256": "0" * 64, "files": {"a": "x"}}},
        {"integrity": {"size": 1, "sha256": "0" * 64, "spec_sha256": "A" * 64}},
        {"provenance": {"recipe": [[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}},
        {"mean": [1.0]},
        {"mean": [float("nan")] * 3},
        {"variance": [-1.0, 1.0, 1.0]},
        {"interpolation": "lanczos"},
        {"resize_mode": "squash"},
        {"export": "none"},
        {"schema_version": "1"},
        {"image_size": float("inf")},
        {"mean": [10**400, 1, 1]},
        {"integrity": {"size": "1", "sha256": "x"}},
        {"augmentation": {"rotation": "x"}},
        {"export": {"quantization": "int3"}},
        {"provenance": {"recipe": 3}},
        {"confidence": {"temperature": 1.5}},
        {"confidence": {"temperature": 0, "threshold": 0.5}},
        {"confidence": {"temperature": "1", "threshold": 0.5}},
        {"confidence": {"temperature": float("nan"), "threshold": 0.5}},
        {"confidence": {"temperature": 10**400, "threshold": 0.5}},
        {"confidence": {"temperature": 1.5, "threshold": 1}},
        {"confidence": {"temperature": 1.5, "threshold": -0.1}},
        {"confidence": {"temperature": 1.5, "threshold": True}},
        {"confidence": {"temperature": 1.5, "threshold": 0.5, "images": -1}},
        {"class_names": ["a", "a"]},
        {"class_names": ["a", "\u001b[2J"]},
        {"class_names": ["a", "\ud800"]},
    ],
)
def test_unusable_values_are_refused(spec, changes):
    with pytest.raises(VitsdError) as error:
        ModelSpec.from_json(changed(spec, **changes))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, "{}", " " * (MAX_JSON_BYTES + 1)]
)
def test_what_is_no_spec_is_refused(text):
    with pytest.raises(VitsdError):
        ModelSpec.from_json(text)


def test_what_is_at_a_limit_is_read(spec):
    sizes = {"input_size": [MAX_SIDE, MAX_SIDE, 3], "image_size": MAX_SIDE}
    most = {"num_layers": MAX_LAYERS, "num_heads": MAX_HEADS, "head_units": [8] * MAX_DENSE_LAYERS}
    names = [str(i) for i in range(MAX_CLASSES)]
    read = ModelSpec.from_json(changed(spec, **sizes, architecture=most, class_names=names))
    assert read.num_classes == MAX_CLASSES


def test_what_was_read_can_be_written(spec):
    for text in (
        "[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]",
        '"\\ud800"',
        "1e308",
        "12345678901234567890",
    ):
        read = ModelSpec.from_json(changed(spec, provenance={"options": {"x": json.loads(text)}}))
        assert ModelSpec.from_json(read.to_json()) == read


def test_a_missing_field_is_named(spec):
    values = json.loads(spec.to_json())
    del values["mean"]
    with pytest.raises(VitsdError, match="mean"):
        ModelSpec.from_json(json.dumps(values))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=300)
def test_whatever_a_field_holds_the_spec_is_read_or_refused(data):
    base = ModelSpec("x", ("a", "b"), (8, 8, 3), 8, (0.0,) * 3, (1.0,) * 3)
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(ModelSpec)]))
    with contextlib.suppress(VitsdError):
        ModelSpec.from_json(changed(base, **{name: data.draw(json_values)}))


def test_exported_files_do_not_tell_where_a_teacher_lay():
    recipe = {"epochs": 3, "teacher": "/home/somebody/teacher.tflite"}
    portable = Provenance(source="/home/somebody/photos", recipe=recipe).portable()
    assert portable.source is None
    assert portable.recipe == {"epochs": 3, "teacher": "teacher.tflite"}
