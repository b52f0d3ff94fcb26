"""Whose word is taken for where the training images are."""

import json

import pytest

from vitsd.training.run import recorded_source


@pytest.fixture
def named(spec):
    """A function from a source to a spec that names it."""
    return lambda source: spec.replace(provenance={"source": source})


def test_built_in_datasets_are_found_again(named, tmp_path):
    assert recorded_source(tmp_path / "model.keras", named("digits")) == "digits"


@pytest.mark.parametrize("source", ["/", "/home", "../..", "photos", "", None])
def test_a_path_in_a_file_alone_is_not_believed(named, tmp_path, source):
    assert recorded_source(tmp_path / "model.keras", named(source)) is None


def test_the_run_that_a_model_lies_in_is_believed(named, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"origin": {"source": "/photos"}}))
    assert recorded_source(tmp_path / "model.keras", named("/photos")) == "/photos"
    assert recorded_source(tmp_path / "model.keras", named("/")) is None
