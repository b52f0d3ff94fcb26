"""The whole model: size, presets, saving, and what training changes."""

import dataclasses

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitsd import VitConfig, build_vit, get_preset, list_presets, load_model, save_model
from vitsd_runtime import ModelSpec, UsageError, VitsdError, preprocess

SMALL = VitConfig(
    input_size=(12, 12, 3),
    num_classes=4,
    image_size=12,
    patch_size=4,
    hidden_dim=16,
    num_layers=2,
    num_heads=2,
    key_dim=8,
    mlp_units=(32, 16),
    head_units=(24,),
)


def images(count=6, shape=(12, 12, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype("float32")


def spec_for(config):
    return ModelSpec(
        name="small",
        class_names=[str(i) for i in range(config.num_classes)],
        input_size=config.input_size,
        image_size=config.image_size,
        mean=[100.0] * 3,
        variance=[3000.0] * 3,
        architecture=config.architecture,
    )


def test_the_published_recipe_has_its_published_size():
    config = get_preset("vit-small-ds").config
    model = build_vit(config)
    assert model.count_params() == 21_787_748
    assert sum(w.path.endswith("/tau") for w in model.trainable_variables) == 8
    assert model.output_shape == (None, 100)
    assert config == VitConfig()
    recipe = get_preset("vit-small-ds").recipe
    assert (recipe.learning_rate, recipe.weight_decay, recipe.batch_size, recipe.epochs) == (
        1e-3,
        1e-4,
        256,
        50,
    )


@given(
    st.sampled_from([1, 3]),
    st.sampled_from([8, 12]),
    st.fixed_dictionaries(
        {
            "patch_size": st.sampled_from([2, 4]),
            "num_heads": st.integers(1, 3),
            "key_dim": st.integers(2, 9),
            "spt": st.booleans(),
            "lsa": st.booleans(),
            "pooling": st.sampled_from(["flatten", "gap"]),
            "head_units": st.sampled_from([(), (7,), (9, 5)]),
            "mlp_convolution": st.booleans(),
        }
    )
    | st.fixed_dictionaries(
        {
            "spt": st.just(False),
            "stem_filters": st.sampled_from([(5,), (3, 6)]),
            "patch_size": st.sampled_from([1, 2, 4]),
        }
    )
    | st.fixed_dictionaries(
        {
            "patch_size": st.just(2),
            "num_layers": st.just(3),
            "pool_tokens_after": st.integers(0, 2),
            "pooling": st.sampled_from(["flatten", "gap"]),
        }
    ),
)
@settings(max_examples=15)
def test_parameter_count_is_that_of_the_model(channels, size, options):
    input_size = (size, size, channels)
    config = dataclasses.replace(SMALL, input_size=input_size, image_size=size, **options)
    assert build_vit(config).count_params() == config.parameter_count()


@pytest.mark.parametrize("name", list_presets())
def test_presets_build_and_explain_themselves(name):
    import importlib

    preset = get_preset(name)
    assert build_vit(preset.config).count_params() == preset.config.parameter_count()
    explanation = importlib.import_module(f"vitsd.presets.{name.replace('-', '_')}").__doc__
    assert f"{preset.config.parameter_count():,}" in explanation
    assert " %" in explanation


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'vit-small-ds'"):
        get_preset("vit_small")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 70}, "multiple of patch_size"),
        ({"patch_size": 100}, "multiple of patch_size"),
        ({"num_heads": 0}, "num_heads must be from 1 to 64"),
        ({"num_heads": 65}, "num_heads must be from 1 to 64; got 65"),
        ({"num_layers": 65}, "num_layers must be from 1 to 64; got 65"),
        ({"input_size": (1025, 8, 3)}, "input_size must be from 1 to 1,024"),
        ({"image_size": 1026}, "image_size must be from 1 to 1,024"),
        ({"num_classes": 100_001}, "num_classes must be from 2 to 100,000"),
        ({"image_size": 1020}, "attention weights an image; at most 67,108,864"),
        ({"head_units": (16_384, 8192)}, "weights; at most 134,217,728"),
        ({"head_units": (16_385,)}, "head_units must be from 1 to 16,384"),
        ({"head_units": (8,) * 17}, "head_units must be at most 16 layers"),
        ({"key_dim": 1}, "key_dim"),
        ({"num_layers": 0}, "num_layers"),
        ({"mlp_units": (128, 32)}, "must equal hidden_dim"),
        ({"mlp_units": ()}, "must equal hidden_dim"),
        ({"head_units": (0,)}, "head_units"),
        ({"pooling": "max"}, "pooling"),
        ({"activation": "swish"}, "activation"),
        ({"num_classes": 1}, "num_classes"),
        ({"mlp_dropout": 1.0}, "mlp_dropout"),
        ({"patch_size": 72}, "at least 2 tokens"),
        ({"patch_size": 1}, "half a patch"),
        ({"input_size": (32, 32)}, "input_size"),
        ({"num_layers": 2.5}, "num_layers must be of type int"),
        ({"num_heads": "4"}, "num_heads"),
        ({"num_layers": True}, "num_layers"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon"),
        ({"head_units": ("many",)}, "head_units"),
        ({"stem_filters": (8,)}, "turn spt off"),
        ({"stem_filters": (8,), "spt": False}, "power of 2 up to 4; got 6"),
        ({"stem_filters": (8,), "spt": False, "patch_size": 8}, "power of 2 up to 4; got 8"),
        ({"stem_filters": (0,)}, "stem_filters"),
        ({"mlp_convolution": True, "mlp_units": (64,)}, "between two layers"),
        ({"pool_tokens_after": -1}, "pool_tokens_after"),
        ({"pool_tokens_after": 8}, "below num_layers .8."),
        ({"pool_tokens_after": 1, "image_size": 18}, "must be even.* make 3"),
        ({"pool_tokens_after": 1, "image_size": 12}, "or pool_tokens_after 0"),
    ],
)
def test_impossible_architectures_are_refused_with_the_reason(changes, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(VitConfig(), **changes)


def test_config_survives_json_and_refuses_strangers():
    assert VitConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(UsageError, match="depht"):
        VitConfig.from_dict({"depht": 3})
    with pytest.raises(UsageError):
        VitConfig.from_dict({"num_layers": "many"})


def test_saving_and_loading_keeps_every_weight_and_the_temperatures(tmp_path):
    model = build_vit(SMALL, mean=[100.0] * 3, variance=[3000.0] * 3)
    for i, weight in enumerate(w for w in model.weights if w.name == "tau"):
        weight.assign(1.5 + i)
    save_model(model, tmp_path / "a.keras", spec_for(SMALL))
    expected = np.asarray(model(images()))

    ours, spec = load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(np.asarray(ours(images())), expected)
    assert spec.class_names == ("0", "1", "2", "3")
    kerases = keras.saving.load_model(tmp_path / "a.keras", safe_mode=True)
    np.testing.assert_array_equal(np.asarray(kerases(images())), expected)
    assert [float(w) for w in kerases.weights if w.name == "tau"] == [1.5, 2.5]


def test_a_model_with_augmentation_and_mixed_precision_can_be_saved(tmp_path):
    from vitsd.recipe import TrainingRecipe
    from vitsd.training.augmentation import model_augmentation

    model = build_vit(
        SMALL, augmentation=model_augmentation(TrainingRecipe()), dtype="mixed_bfloat16"
    )
    model.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras", safe_mode=True)
    expected = np.asarray(model(images(), training=False))
    np.testing.assert_allclose(np.asarray(loaded(images(), training=False)), expected, atol=1e-6)
    assert model(images()).dtype == "float32"


def test_a_file_whose_architecture_is_larger_than_its_weights_is_refused_before_memory_is_taken(
    tmp_path,
):
    model = build_vit(SMALL)
    greedy = dataclasses.replace(SMALL, head_units=(16_384, 4096))
    save_model(model, tmp_path / "a.keras", spec_for(greedy))
    with pytest.raises(VitsdError, match="holds only"):
        load_model(tmp_path / "a.keras")


def test_a_plain_keras_file_is_named_as_lacking_a_spec(tmp_path):
    build_vit(SMALL).save(tmp_path / "a.keras")
    with pytest.raises(UsageError, match="no vitsd spec"):
        load_model(tmp_path / "a.keras")


@pytest.mark.slow
def test_training_moves_the_temperatures_and_every_other_weight():
    keras.utils.set_random_seed(0)
    model = build_vit(SMALL)
    model.compile(
        keras.optimizers.AdamW(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    before = {w.path: np.array(w) for w in model.trainable_variables}
    for step in range(3):
        model.train_on_batch(images(16, seed=step) / 255, np.arange(16) % 4)
    unmoved = [w.path for w in model.trainable_variables if np.array_equal(before[w.path], w)]
    # A key bias adds a constant to each row of scores, which softmax ignores, and attention starts
    # uniform enough that rounding alone may or may not move it.
    assert [path for path in unmoved if not path.endswith("key/bias")] == []
    assert sum(path.endswith("/tau") for path in before) == 2


def test_stochastic_depth_drops_whole_branches_in_training_only():
    model = build_vit(
        dataclasses.replace(SMALL, stochastic_depth=0.9, mlp_dropout=0.0, attention_dropout=0.0)
    )
    x = images(1).repeat(64, axis=0)
    calm = np.asarray(model(x, training=False))
    np.testing.assert_allclose(calm, calm[:1].repeat(64, axis=0), atol=1e-5)
    tokens = keras.Model(model.input, model.get_layer("block_1_mlp_add").output)
    different = {
        row.tobytes() for row in np.asarray(tokens(x, training=True)).round(3).reshape(64, -1)
    }
    assert 2 <= len(different) <= 16  # two blocks of two branches, each there or not


def test_vanilla_has_neither_norm_before_projection_nor_temperatures():
    names = {w.path for w in build_vit(dataclasses.replace(SMALL, spt=False, lsa=False)).weights}
    assert not any("tau" in name or "tokenization/norm" in name for name in names)


def test_inputs_are_raw_pixels_of_the_dataset():
    config = dataclasses.replace(SMALL, input_size=(7, 9, 3))
    mean, variance = [100.0, 110.0, 120.0], [3000.0, 3100.0, 3200.0]
    model = build_vit(config, mean=mean, variance=variance)
    preprocessed = np.asarray(
        keras.Model(model.input, model.get_layer("resizing").output)(images(2, (7, 9, 3)))
    )
    spec = ModelSpec("x", ("a", "b"), config.input_size, 12, mean, variance)
    np.testing.assert_allclose(preprocessed, preprocess(images(2, (7, 9, 3)), spec), atol=1e-4)
