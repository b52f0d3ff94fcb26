"""What a model sees is computed from what it really does."""

import json

import numpy as np
import pytest
from PIL import Image

from vitsd import VitConfig, build_vit, load_model, save_model
from vitsd.evaluation.explain import explain, rollout
from vitsd.evaluation.predict import predict_logits
from vitsd.plots import plot_explanation
from vitsd_runtime import ModelSpec
from vitsd_runtime.classifier import softmax


def test_an_explanation_is_of_the_models_own_answer(trained, digits):
    model, spec = load_model(trained / "model.keras")
    explanation = explain(model, spec, digits.images[0], top_k=10)
    probabilities = softmax(predict_logits(model, digits.images[:1]) / spec.temperature)[0]
    assert explanation.labels[0] == spec.class_names[probabilities.argmax()]
    np.testing.assert_allclose(explanation.probabilities, np.sort(probabilities)[::-1], atol=1e-5)
    attention = np.stack(explanation.attention)
    assert attention.shape == (2, 4, 36, 36)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
    assert np.diagonal(attention, axis1=-2, axis2=-1).max() < 1e-8
    np.testing.assert_allclose(explanation.rollout.sum(axis=-1), 1, atol=1e-5)
    taus = [float(w.numpy()) for w in model.weights if w.path.endswith("tau")]
    np.testing.assert_allclose(explanation.temperatures, np.array(taus) / 4, rtol=1e-6)


def test_the_attention_is_the_one_that_is_used(trained, digits):
    """Attention output recomputed from the reported weights equals the layer's."""
    model, _spec = load_model(trained / "model.keras")
    layer = model.get_layer("block_0_attention")
    tokens = np.random.default_rng(0).normal(size=(2, 36, 64)).astype(np.float32)
    weights, value = np.asarray(layer.attention(tokens)), np.asarray(layer.value(tokens))
    expected = np.asarray(layer.projection(np.einsum("bhqt,bthk->bqhk", weights, value)))
    np.testing.assert_allclose(np.asarray(layer(tokens)), expected, atol=1e-5)


def test_views_are_the_image_and_its_shifted_copies(trained, digits):
    model, spec = load_model(trained / "model.keras")
    views = explain(model, spec, digits.images[0]).views
    assert views.shape == (5, 24, 24, 1)
    # Left-up, by half a patch.
    np.testing.assert_allclose(views[1, :-2, :-2], views[0, 2:, 2:], atol=1e-6)
    np.testing.assert_allclose(views[4, 2:, 2:], views[0, :-2, :-2], atol=1e-6)


def test_rollout_of_equal_attention_is_equal_and_of_one_target_goes_there():
    even = np.full((3, 2, 4, 4), 0.25)
    np.testing.assert_allclose(rollout(even), 0.25)
    target = np.zeros((5, 1, 4, 4))
    target[..., 2] = 1
    flow = rollout(target)
    assert (np.diff(flow[:, 2]) > 0).all()
    assert flow[-1, 2] > 0.95


def test_pooled_tokens_pass_on_what_the_four_had_seen(tmp_path):
    config = VitConfig(
        input_size=(8, 8, 1),
        num_classes=2,
        image_size=8,
        patch_size=2,
        hidden_dim=8,
        num_layers=3,
        pool_tokens_after=2,
        num_heads=2,
        key_dim=4,
        mlp_units=(8,),
        head_units=(),
        pooling="gap",
    )
    spec = ModelSpec(
        name="pooled",
        class_names=("cat", "dog"),
        input_size=config.input_size,
        image_size=8,
        mean=(100.0,),
        variance=(4000.0,),
        architecture=config.architecture,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 1)).astype(np.uint8)
    explanation = explain(build_vit(config), spec, pixels)
    shapes = [weights.shape for weights in explanation.attention]
    assert shapes == [(2, 16, 16), (2, 16, 16), (2, 4, 4)]
    np.testing.assert_allclose(explanation.rollout.sum(axis=-1), 1, atol=1e-5)
    plot_explanation(explanation, tmp_path / "picture.png")

    # All pooled tokens attend to the first, whose image are the four in the upper left corner.
    target = np.zeros((1, 4, 4))
    target[..., 0] = 1
    last = rollout([np.eye(16)[None], *[target] * 9])[-1].reshape(4, 4)
    np.testing.assert_allclose(last[:2, :2], 0.25, atol=1e-3)


def test_the_command_draws_a_picture(command, trained, digits, tmp_path):
    Image.fromarray(digits.images[0, ..., 0]).resize((60, 60)).save(tmp_path / "photo.png")
    done = command("vitsd-explain", trained / "model.keras", "photo.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Temperatures" in done.stdout
    with Image.open(tmp_path / "photo-explained.png") as picture:
        assert min(picture.size) > 400
        assert len(set(picture.convert("L").getdata())) > 50


@pytest.mark.parametrize("num_layers", [1, 9])
def test_ordinary_vits_and_other_depths_are_drawn_too(command, tmp_path, num_layers):
    config = VitConfig(
        input_size=(16, 16, 3),
        num_classes=3,
        image_size=16,
        patch_size=8,
        hidden_dim=8,
        num_layers=num_layers,
        num_heads=1,
        key_dim=8,
        mlp_units=(8,),
        head_units=(),
        spt=False,
        lsa=False,
    )
    spec = ModelSpec(
        "x",
        ("a", "b", "c"),
        config.input_size,
        16,
        (100,) * 3,
        (2000,) * 3,
        architecture=config.architecture,
    )
    save_model(
        build_vit(config, mean=spec.mean, variance=spec.variance), tmp_path / "model.keras", spec
    )
    Image.new("RGB", (20, 30), "red").save(tmp_path / "photo.jpg")
    done = command(
        "vitsd-explain", "model.keras", "photo.jpg", "--output", "a.png", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["temperatures"] is None
    assert len(report["rollout"]) == num_layers
    assert (tmp_path / "a.png").exists()


def test_misuse(command_here, trained, tmp_path):
    for words, message in (
        (("missing.keras", "a.png"), "missing.keras"),
        ((trained / "model.keras", "missing.png"), "no image at"),
        ((trained / "model.keras", "a.png", "--output", "a.txt"), ".png"),
    ):
        done = command_here("vitsd-explain", *words, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
