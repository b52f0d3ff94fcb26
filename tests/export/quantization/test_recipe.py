"""Recipes: what is written is read again, and so are those of schema 1."""

import json
import shutil
from pathlib import Path

import pytest

from vitsd_export import export
from vitsd_export.quantization.ranges import RangeMethod
from vitsd_export.quantization.recipe import LayerChoice, QuantizationRecipe, read_recipe
from vitsd_export.quantization.tflite import GROUP_METHODS
from vitsd_runtime import UsageError, bundled_model, read_spec

OLD = Path(__file__).parent / "data" / "schema-1-int8-full.recipe.json"
"""Written by commit 9d0f185."""


def test_a_recipe_of_schema_1_is_read_under_the_new_names():
    recipe = read_recipe(OLD)
    assert (recipe.quantization, recipe.format, recipe.target) == ("int8-full", "tflite", "litert")
    assert (recipe.architecture.hidden_dim, recipe.architecture.num_layers) == (64, 4)
    assert list(recipe.layers) == list(GROUP_METHODS)
    assert recipe.layers["first norm"] == LayerChoice("static", RangeMethod.parse("max/64"))
    old = json.loads(OLD.read_text())
    assert str(recipe.layers["intermediates"].method) == old["layers"]["others"]["method"]
    assert recipe.measured == old["measured"]


def test_what_is_written_is_read_again():
    recipe = read_recipe(OLD)
    written = json.loads(json.dumps(recipe.to_dict()))
    assert written["schema"] == 2
    assert written["layers"]["activations"] == {"precision": "static", "method": "p99.9"}
    assert QuantizationRecipe.from_dict(written) == recipe


def test_the_recipe_in_a_shipped_file_is_read():
    spec = read_spec(bundled_model())
    recipe = read_recipe(spec.export.recipe)
    recipe.check(spec.export.quantization, "tflite", spec.export.target, spec.architecture)
    assert "block_0_query" in recipe.layers


def test_a_recipe_of_schema_1_out_of_a_spec_is_replayed(trained, exported, tmp_path):
    path = exported / "digits-int8.tflite"
    new = read_spec(path).export.recipe
    architecture = dict(new["architecture"])
    architecture["width"] = architecture.pop("hidden_dim")
    architecture["depth"] = architecture.pop("num_layers")
    architecture |= {"input_size": [8, 8, 1], "image_size": 24, "num_classes": 10}
    old = {**new, "schema": 1, "architecture": architecture}
    model = shutil.copy(trained / "model.keras", tmp_path)
    (artifact,) = export(model, "tflite", "int8", recipe=old)
    assert artifact.spec.export.recipe["layers"] == new["layers"]
    size = artifact.spec.integrity.size
    assert artifact.path.read_bytes()[:size] == path.read_bytes()[:size]


@pytest.mark.parametrize("values", [{}, {"schema": 3}, [], {"schema": 1, "architecture": 4}])
def test_what_is_no_recipe_is_refused(values, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match=r"r\.json is not a quantization recipe"):
        read_recipe(tmp_path / "r.json")
