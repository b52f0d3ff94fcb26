"""The same answer on every CPU, whatever the weights: rounding stays as small as it is.

The first norm divides patches by their deviation. Where they are flat, that multiplies by up to
1,000 what differs between CPUs.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from other_cpus import EXACT, Cpu, evaluate

from vitsd import VitConfig, build_vit
from vitsd_export.graph.folding import fold
from vitsd_export.graph.module import inference_module
from vitsd_export.graph.options import GraphOptions
from vitsd_export.graph.preprocessing import preprocess as preprocess_in_graph
from vitsd_export.graph.weights import read_weights
from vitsd_runtime import ModelSpec
from vitsd_runtime.images.preprocessing import preprocess

CPUS = [
    Cpu(lanes=1, fused=False),
    Cpu(lanes=1, fused=True, reverse=True),
    Cpu(lanes=4, fused=True),
    Cpu(lanes=16, fused=False),
]


def difficult_images(shape, random):
    """Flat ones of some levels, the same with one pixel that is one level off, and gray ones."""
    flat = np.broadcast_to(np.arange(0, 250, 23, dtype=np.uint8)[:, None, None, None], (11, *shape))
    nearly = flat.copy()
    nearly[:, shape[0] // 2, shape[1] // 2, 0] += 1
    gray = random.normal(120, random.choice([1, 3, 40], size=(8, 1, 1, 1)), (8, *shape[:2], 1))
    gray = np.broadcast_to(np.clip(gray, 0, 255).astype(np.uint8), (8, *shape))
    return np.concatenate([flat, nearly, gray])


def random_model(config, scale, random):
    """With norms and temperatures as after training, and the other weights ``scale`` times that."""
    keras.backend.clear_session()
    model = build_vit(config)
    for weight in model.trainable_variables:
        if weight.name in ("gamma", "tau"):
            weight.assign(weight * random.uniform(0.5, 1.5, weight.shape))
        else:
            weight.assign(scale * (weight + 0.1 * random.normal(size=weight.shape)))
    return model


@pytest.mark.slow
@given(
    st.sampled_from([1, 3]),
    st.sampled_from([4, 5]),
    st.sampled_from([0.1, 1, 3]),
    st.sampled_from([GraphOptions(), GraphOptions(exp_attention=True), GraphOptions(flat=True)]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=8, phases=[Phase.generate])  # an example takes too long to shrink it
def test_cpus_agree_for_any_weights_and_images(channels, patch, scale, options, seed):
    random = np.random.default_rng(seed)
    config = VitConfig(
        input_size=(8, 8, channels),
        num_classes=5,
        image_size=3 * patch,
        patch_size=patch,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        key_dim=8,
        mlp_units=(24, 16),
        head_units=(),
        pooling="gap",
    )
    spec = ModelSpec(
        name="random",
        class_names=tuple("abcde"),
        input_size=config.input_size,
        image_size=config.image_size,
        # The same for all channels, as gray photos have them.
        mean=[random.uniform(60, 180)] * channels,
        variance=[random.uniform(1000, 8000)] * channels,
    )
    folded = fold(read_weights(random_model(config, scale, random), config), config)
    module = inference_module(folded, spec, embed_preprocessing=True, options=options)
    function = module.serve.get_concrete_function()
    images = difficult_images(config.input_size, random)

    exact = evaluate(function, images, EXACT)
    first, *others = (evaluate(function, images, cpu) for cpu in CPUS)
    # At most 2e-5 and 5e-5 were seen. Summed patches and resizing by matrix products: 0.2.
    for other in others:
        np.testing.assert_allclose(other, first, atol=5e-5 * exact.std(), rtol=0)
    np.testing.assert_allclose(first, exact, atol=2e-4 * exact.std(), rtol=0)


@given(st.integers(2, 40), st.integers(2, 40), st.sampled_from([1, 3]), st.integers(1, 80))
@settings(max_examples=30)
def test_embedded_preprocessing_gives_the_bits_of_the_runtimes(height, width, channels, size):
    spec = ModelSpec(
        name="x",
        class_names=("a", "b"),
        input_size=(height, width, channels),
        image_size=size,
        mean=[117.3] * channels,
        variance=[3500.1] * channels,
    )
    images = np.random.default_rng(size).integers(0, 256, (2, *spec.input_size), dtype=np.uint8)
    in_graph = preprocess_in_graph(tf.constant(images), spec).numpy()
    np.testing.assert_array_equal(in_graph, preprocess(images, spec))


def test_the_keras_model_does_not_amplify_rounding_either():
    # It is what exported files are compared with.
    random = np.random.default_rng(0)
    config = VitConfig(input_size=(24, 24, 1), image_size=24, num_layers=2, head_units=())
    model = random_model(config, 1, random)
    folded = fold(read_weights(model, config), config)
    spec = ModelSpec(
        name="x",
        class_names=tuple(map(str, range(100))),
        input_size=config.input_size,
        image_size=24,
        mean=[0.0],
        variance=[1.0],
    )
    function = inference_module(folded, spec).serve.get_concrete_function()
    images = random.normal(size=(20, 1, 1, 1)) + np.zeros((20, *config.input_size))
    images[10:, 9, 9] += 0.01
    images = images.astype(np.float32)
    exact = evaluate(function, images, EXACT)
    keras_logits = model.predict(images, verbose=0)
    np.testing.assert_allclose(keras_logits, exact, atol=1e-5 * exact.std(), rtol=0)
