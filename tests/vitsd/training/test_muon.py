"""Muon: what is orthogonal, what AdamW gets, and that all of it is saved."""

import keras
import numpy as np
import pytest

from vitsd import VitConfig, build_vit
from vitsd.recipe import TrainingRecipe
from vitsd.training.muon import Muon, is_matrix, matrix_shape, orthogonalized
from vitsd.training.optimizer import compile_model


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5)])
def test_singular_values_come_near_one(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    found = keras.ops.convert_to_numpy(orthogonalized(keras.ops.convert_to_tensor(matrix)))
    assert found.shape == shape
    values = np.linalg.svd(found, compute_uv=False)
    assert values.min() > 0.3
    assert values.max() < 1.3
    np.testing.assert_allclose(np.diag(u.T @ found @ v.T), values.mean(), atol=0.5)


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((128, 384), (128, 384)),
        ((128, 4, 32), (128, 128)),  # query, key, value
        ((4, 32, 128), (128, 128)),  # attention's output
        ((3, 3, 32, 64), (288, 64)),
    ],
)
def test_kernels_are_matrices_of_inputs_by_outputs(shape, matrix):
    assert matrix_shape(shape) == matrix


def variable(shape, path):
    scope, name = path.split("/")
    with keras.name_scope(scope):
        return keras.Variable(np.random.default_rng(1).normal(size=shape), name=name)


@pytest.mark.parametrize("shape", [(6, 2, 3), (2, 3, 6), (3, 3, 2, 6)])
def test_the_step_of_a_kernel_is_that_of_its_matrix(shape):
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows, columns = matrix_shape(shape)
    changed = []
    for form in (shape, (rows, columns)):
        kernel = variable(form, "dense/kernel")
        before = keras.ops.convert_to_numpy(kernel)
        Muon(1e-2).apply([keras.ops.convert_to_tensor(gradient.reshape(form))], [kernel])
        changed.append((keras.ops.convert_to_numpy(kernel) - before).reshape(-1))
    np.testing.assert_allclose(changed[0], changed[1], atol=1e-6)
    assert np.sqrt(np.mean(np.square(changed[0]))) == pytest.approx(1e-2, rel=0.3)


def test_steps_computed_together_are_those_computed_alone(monkeypatch):
    shapes = [(6, 4), (6, 4), (2, 3, 4), (3, 3, 2, 6), (4,)]
    random = np.random.default_rng(0)
    gradients = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    changed = []
    for backend in (keras.backend.backend(), "jax"):
        # JAX gets them together; the method is the same on every backend.
        monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
        weights = [variable(shape, "dense/kernel") for shape in shapes[:-1]]
        weights.append(variable(shapes[-1], "dense/bias"))
        optimizer = Muon(1e-2)
        for _ in range(2):
            optimizer.apply([keras.ops.convert_to_tensor(each) for each in gradients], weights)
        changed.append([keras.ops.convert_to_numpy(each) for each in weights])
    for alone, together in zip(*changed, strict=True):
        np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("path", ["norm/gamma", "logits/kernel", "position/embedding"])
def test_what_is_no_inner_matrix_gets_the_steps_of_adamw(path):
    gradients = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    found = []
    for optimizer in (Muon(1e-2), keras.optimizers.AdamW(1e-2, weight_decay=0)):
        weights = variable((4, 5), path)
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weights])
        found.append(keras.ops.convert_to_numpy(weights))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_a_model_is_trained_by_it_and_its_state_is_kept():
    config = VitConfig(
        input_size=(8, 8, 1),
        num_classes=3,
        image_size=8,
        patch_size=4,
        spt=False,
        stem_filters=(4,),
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        key_dim=4,
        mlp_units=(16, 8),
        mlp_convolution=True,
        head_units=(),
        pooling="gap",
    )
    model = build_vit(config)
    by_muon = {v.path.split("/")[-2] for v in model.trainable_variables if is_matrix(v)}
    attention = {"query", "key", "value", "projection"}
    others = {"convolution_0", "convolution_1", "block_0_mlp_0", "block_0_mlp_1"}
    assert by_muon == attention | others
    recipe = TrainingRecipe(optimizer="muon", epochs=30, learning_rate=1e-2, warmup_fraction=0)
    compile_model(model, recipe, steps_per_epoch=1)
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (12, 8, 8, 1)), np.eye(3)[np.arange(12) % 3]
    losses = model.fit(images, labels, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    kinds = [v.path.rpartition("_")[2] for v in model.optimizer.variables]
    assert kinds.count("momentum") == len(model.trainable_variables)
    assert kinds.count("velocity") == sum(not is_matrix(v) for v in model.trainable_variables)
