"""Folding changes nothing: random architectures, with norms and temperatures as after training."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vitsd import VitConfig, build_vit, load_model
from vitsd_export.graph.float_graph import build_float_logits
from vitsd_export.graph.folding import fold, merging_pays, score_bounds
from vitsd_export.graph.integer_graph import build_integer_logits
from vitsd_export.graph.masks import bounded_masks
from vitsd_export.graph.options import GraphOptions
from vitsd_export.graph.weights import read_weights
from vitsd_runtime import VitsdError


@st.composite
def configs(draw):
    width = draw(st.sampled_from([8, 12, 24]))
    stem = draw(st.sampled_from([(), (), (6,), (4, 7)]))
    spt = not stem and draw(st.booleans())
    patch = draw(st.sampled_from([1, 2, 4]) if stem else st.integers(2 if spt else 1, 4))
    side = draw(st.integers(2, 4))
    mlp_units = draw(st.sampled_from([(width,), (2 * width, width), (5, 7, width)]))
    layers, lsa = draw(st.integers(1, 3)), draw(st.booleans())
    poolable = side == 4 or (side == 2 and not lsa)
    return VitConfig(
        input_size=(patch * side, patch * side, draw(st.sampled_from([1, 3]))),
        num_classes=draw(st.integers(2, 7)),
        image_size=patch * side,
        patch_size=patch,
        hidden_dim=width,
        num_layers=layers,
        pool_tokens_after=draw(st.integers(0, layers - 1)) if poolable else 0,
        num_heads=draw(st.integers(1, 4)),
        key_dim=draw(st.sampled_from([2, 5, 16, 40])),
        mlp_units=mlp_units,
        head_units=draw(st.sampled_from([(), (11,), (9, 6)])),
        pooling=draw(st.sampled_from(["flatten", "gap"])),
        activation=draw(st.sampled_from(["gelu", "relu"])),
        spt=spt,
        stem_filters=stem,
        mlp_output_activation=draw(st.booleans()),
        mlp_convolution=len(mlp_units) > 1 and draw(st.booleans()),
        lsa=lsa,
    )


def randomize(model, seed):
    """Give every weight a value of its own, as training would.

    Scales are around 1, temperatures around their start.
    """
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "tau", "moving_variance"):
            weight.assign(weight * random.uniform(0.5, 1.5, weight.shape))
        else:
            weight.assign(weight + 0.1 * random.normal(size=weight.shape))


def logits_after_preprocessing(model, images):
    tokenization = model.get_layer("tokenization")
    return np.asarray(keras.Model(tokenization.input, model.output)(images, training=False))


@pytest.mark.slow
@given(configs(), st.integers(0, 2**32 - 1), st.sampled_from([None, True, False]))
@settings(max_examples=40)
def test_folded_equals_keras(config, seed, merge):
    keras.backend.clear_session()
    model = build_vit(config)
    randomize(model, seed)
    images = np.random.default_rng(seed).normal(
        size=(3, config.image_size, config.image_size, config.input_size[2])
    )
    images = images.astype("float32")
    expected = logits_after_preprocessing(model, images)
    folded = fold(read_weights(model, config), config, merge=merge)
    result = build_float_logits(tf.constant(images), folded).numpy()
    assert [block.attention.key is None for block in folded.blocks] == [
        merging_pays(config, i) if merge is None else merge for i in range(config.num_layers)
    ]
    tolerance = 1e-4 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(result, expected, atol=tolerance)

    # The other ways to write the graph, for other engines, are equal too; the scores stay within
    # their proven bounds.
    bounds = [score_bounds(block.attention, config).max() for block in folded.blocks]

    def observe(block, scores):
        assert np.abs(scores).max() <= bounds[block] * (1 + 1e-5)

    for options in (GraphOptions(exp_attention=True), GraphOptions(flat=True)):
        result = build_float_logits(tf.constant(images), folded, options, observe).numpy()
        np.testing.assert_allclose(result, expected, atol=tolerance)
    for masks in ((-1e9,) * config.num_layers, bounded_masks(images, folded)):
        single = [
            build_integer_logits(tf.constant(image[None]), folded, masks).numpy()
            for image in images
        ]
        np.testing.assert_allclose(np.concatenate(single), expected, atol=2 * tolerance)


def test_scores_too_large_for_exp_are_left_to_softmax():
    shape = {
        "input_size": (12, 12, 3),
        "image_size": 12,
        "patch_size": 4,
        "hidden_dim": 12,
        "mlp_units": (12,),
    }
    config = VitConfig(num_layers=1, num_heads=2, key_dim=12, head_units=(), pooling="gap", **shape)
    model = build_vit(config)
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype("float32")
    for factor, uses_exp in ((1, True), (30, False)):
        for part in ("query", "key"):
            kernel = next(
                w for w in model.trainable_variables if w.path == f"block_0_attention/{part}/kernel"
            )
            kernel.assign(kernel * factor)
        folded = fold(read_weights(model, config), config)
        with tf.Graph().as_default() as graph:
            build_float_logits(tf.constant(images), folded, GraphOptions(exp_attention=True))
        assert ("Exp" in {operation.type for operation in graph.get_operations()}) == uses_exp
        options = GraphOptions(exp_attention=True)
        result = build_float_logits(tf.constant(images), folded, options).numpy()
        np.testing.assert_allclose(result, logits_after_preprocessing(model, images), atol=1e-3)


def test_both_sides_of_the_merge_rule_are_met():
    assert merging_pays(VitConfig(), 0)  # vit-small-ds
    assert not merging_pays(VitConfig(key_dim=16), 0)
    # d (d + tokens) < k (2 d + tokens), one step to either side
    config = VitConfig(hidden_dim=64, image_size=72, patch_size=6)
    border = 64 * (64 + 144) / (2 * 64 + 144)
    assert merging_pays(dataclasses.replace(config, key_dim=int(border) + 1), 0)
    assert not merging_pays(dataclasses.replace(config, key_dim=int(border)), 0)


def test_behind_pooled_tokens_the_merge_rule_counts_what_is_left():
    config = VitConfig(hidden_dim=64, image_size=72, patch_size=6, num_layers=2, key_dim=45)
    pooled = dataclasses.replace(config, pool_tokens_after=1)
    assert [merging_pays(config, block) for block in (0, 1)] == [False, False]
    assert [merging_pays(pooled, block) for block in (0, 1)] == [False, True]


def test_folded_equals_keras_for_the_trained_model(trained, digits):
    model, spec = load_model(trained / "model.keras")
    config = VitConfig.from_spec(spec)
    preprocessed = keras.Model(model.input, model.get_layer("tokenization").input)(
        digits.images[:50], training=False
    )
    expected = logits_after_preprocessing(model, preprocessed)
    result = build_float_logits(preprocessed, fold(read_weights(model, config), config)).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


def test_folding_leaves_no_temperature_scale_or_key_bias_behind():
    config = VitConfig(image_size=12, num_layers=1, head_units=())
    folded = fold(read_weights(build_vit(config), config), config)
    assert folded.blocks[0].attention.key is None
    for matrix in (
        folded.tokenization.kernel,
        folded.position_embedding,
        folded.blocks[0].attention.output.kernel,
    ):
        np.testing.assert_allclose(matrix.mean(axis=1), 0, atol=1e-12)
        assert matrix.dtype == np.float64


def test_weights_of_another_architecture_are_refused():
    config = VitConfig(image_size=12, num_layers=1, head_units=())
    with pytest.raises(VitsdError, match=r"block_1_"):
        read_weights(build_vit(dataclasses.replace(config, num_layers=2)), config)


def test_weights_that_are_nan_are_refused():
    config = VitConfig(image_size=12, num_layers=1, head_units=())
    model = build_vit(config)
    model.get_layer("logits").bias.assign(np.full(100, np.nan))
    with pytest.raises(VitsdError, match="NaN"):
        read_weights(model, config)
