"""The layers against independent NumPy references written from the paper, loop by loop."""

import zipfile

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vitsd
from vitsd.config import VitConfig
from vitsd.model import names
from vitsd.model.convolutions import ConvolutionalTokenization, TokenConvolution
from vitsd.model.layers import LocalitySelfAttention, PositionEmbedding, ShiftedPatchTokenization
from vitsd.model.vit import build_vit
from vitsd_runtime.spec import ModelSpec


def reference_tokens(image, patch, gamma, beta, kernel, bias, epsilon):
    """Shifted Patch Tokenization of one image, pixel by pixel."""
    height, width, channels = image.shape
    half = patch // 2

    def pixel(row, column):
        inside = 0 <= row < height and 0 <= column < width
        return image[row, column] if inside else np.zeros(channels)

    # left-up, left-down, right-up, right-down: the image moves that way, so each place shows what
    # stood opposite.
    shifts = [(0, 0), (half, half), (-half, half), (half, -half), (-half, -half)]
    tokens = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            features = [
                value
                for row in range(top, top + patch)
                for column in range(left, left + patch)
                for down, right in shifts
                for value in pixel(row + down, column + right)
            ]
            features = np.array(features)
            normalized = (features - features.mean()) / np.sqrt(features.var() + epsilon)
            tokens.append((normalized * gamma + beta) @ kernel + bias)
    return np.array(tokens)


def reference_convolution(image, kernel, stride):
    """A 3x3 convolution with zeros around the image, pixel by pixel."""
    height, width, _ = image.shape
    rows, columns = -(-height // stride), -(-width // stride)
    above = ((rows - 1) * stride + 3 - height) // 2
    left = ((columns - 1) * stride + 3 - width) // 2
    padded = np.pad(image, ((above, 3), (left, 3), (0, 0)))
    result = np.zeros((rows, columns, kernel.shape[-1]))
    for row, column in np.ndindex(rows, columns):
        top, start = row * stride, column * stride
        window = padded[top : top + 3, start : start + 3]
        result[row, column] = np.einsum("rci,rcio->o", window, kernel)
    return result


@given(
    st.sampled_from([((4,), 4), ((4,), 2), ((4, 5), 4), ((4,), 1)]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=15)
def test_convolutional_tokenization(stem, rows, columns, channels, seed):
    filters, patch = stem
    random = np.random.default_rng(seed)
    images = random.normal(size=(2, rows * patch, columns * patch, channels)).astype("float32")
    layer = ConvolutionalTokenization(filters, patch, 5)
    layer.build(images.shape)
    layer.set_weights([np.abs(random.normal(size=w.shape)) + 0.1 for w in layer.weights])
    strides = [1] * (len(filters) + 1)
    for i in range(patch.bit_length() - 1):
        strides[-1 - i] = 2
    expected = []
    for values in images:
        for i, stride in enumerate(strides):
            values = np.maximum(values, 0) if i else values
            kernel = np.asarray(layer.convolutions[i].kernel)
            gamma, beta, mean, variance = map(np.asarray, layer.norms[i].weights)
            values = reference_convolution(values, kernel, stride)
            values = (values - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        expected.append(values.reshape(-1, 5))
    result = np.asarray(layer(images, training=False))
    assert result.shape[1:] == layer.compute_output_shape(images.shape)[1:]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_token_convolution():
    random = np.random.default_rng(0)
    tokens = random.normal(size=(2, 9, 4)).astype("float32")
    layer = TokenConvolution("relu")
    layer.build(tokens.shape)
    layer.set_weights([random.normal(size=w.shape) for w in layer.weights])
    kernel, bias = map(np.asarray, layer.weights)
    each = np.zeros((3, 3, 4, 4))  # a kernel in which no channel sees another
    each[..., range(4), range(4)] = kernel[..., 0]
    convolved = [reference_convolution(grid, each, 1) for grid in tokens.reshape(2, 3, 3, 4)]
    expected = np.maximum(tokens + np.reshape(convolved, tokens.shape) + bias, 0)
    np.testing.assert_allclose(layer(tokens), expected, rtol=1e-5, atol=1e-5)


@given(
    st.integers(2, 6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_shifted_patch_tokenization(patch, rows, columns, channels, seed):
    random = np.random.default_rng(seed)
    images = random.normal(size=(2, rows * patch, columns * patch, channels)).astype("float32")
    layer = ShiftedPatchTokenization(patch, 5)
    layer.build(images.shape)
    weights = [random.normal(size=w.shape) for w in layer.weights]
    layer.set_weights(weights)
    gamma, beta, kernel, bias = weights
    expected = [
        reference_tokens(image, patch, gamma, beta, kernel, bias, 1e-6)
        for image in images.astype(float)
    ]
    result = np.asarray(layer(images))
    assert result.shape == (2, rows * columns, 5)
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_plain_tokenization_projects_patches_in_row_column_channel_order():
    images = np.arange(4 * 4 * 2, dtype="float32").reshape(1, 4, 4, 2)
    layer = ShiftedPatchTokenization(2, 8, shifted=False)
    layer.build(images.shape)
    layer.set_weights([np.eye(8), np.zeros(8)])
    tokens = np.asarray(layer(images))[0]
    np.testing.assert_array_equal(tokens[0], [0, 1, 2, 3, 8, 9, 10, 11])
    np.testing.assert_array_equal(tokens[1], [4, 5, 6, 7, 12, 13, 14, 15])


def reference_attention(tokens, weights, tau, local):
    """Attention of one image, head by head and token by token."""
    wq, bq, wk, bk, wv, bv, wo, bo = weights
    out = np.zeros_like(tokens)
    for head in range(wq.shape[1]):
        q = tokens @ wq[:, head] + bq[head]
        k = tokens @ wk[:, head] + bk[head]
        v = tokens @ wv[:, head] + bv[head]
        for i in range(len(tokens)):
            others = [j for j in range(len(tokens)) if j != i or not local]
            scores = np.array([q[i] @ k[j] / tau for j in others])
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            out[i] += sum(s * v[j] for s, j in zip(shares, others, strict=True)) @ wo[head]
    return out + bo


@given(
    st.integers(2, 6),
    st.integers(1, 3),
    st.integers(2, 5),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_locality_self_attention(count, heads, key_dim, local, seed):
    random = np.random.default_rng(seed)
    tokens = random.normal(size=(2, count, 6)).astype("float32")
    layer = LocalitySelfAttention(heads, key_dim, local=local)
    layer.build(tokens.shape)
    for weight in layer.weights:
        weight.assign(random.normal(size=weight.shape) if weight.name != "tau" else 1.7)
    parts = [
        np.asarray(w, float)
        for p in (layer.query, layer.key, layer.value, layer.projection)
        for w in (p.kernel, p.bias)
    ]
    tau = 1.7 if local else np.sqrt(key_dim)
    expected = [reference_attention(image, parts, tau, local) for image in tokens.astype(float)]
    np.testing.assert_allclose(np.asarray(layer(tokens)), expected, atol=2e-4)


def test_the_temperature_starts_at_the_root_of_key_dim_and_is_trainable():
    layer = LocalitySelfAttention(2, 49)
    layer.build((None, 4, 8))
    assert float(layer.tau) == pytest.approx(7)
    assert any(weight is layer.tau for weight in layer.trainable_weights)
    plain = LocalitySelfAttention(2, 49, local=False)
    plain.build((None, 4, 8))
    assert len(plain.weights) == 8


def test_plain_attention_equals_keras_multi_head_attention():
    tokens = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    ours, keras_layer = (
        LocalitySelfAttention(3, 4, local=False),
        keras.layers.MultiHeadAttention(3, 4),
    )
    ours.build(tokens.shape)
    expected = np.asarray(keras_layer(tokens, tokens))
    ours.set_weights(keras_layer.get_weights())
    np.testing.assert_allclose(np.asarray(ours(tokens)), expected, atol=1e-5)


def test_position_embedding_adds_one_vector_per_place():
    layer = PositionEmbedding()
    tokens = np.zeros((2, 3, 4), "float32")
    result = np.asarray(layer(tokens))
    np.testing.assert_array_equal(result[0], np.asarray(layer.embedding))
    np.testing.assert_array_equal(result[0], result[1])


def test_layers_survive_their_config_and_old_ones_are_read():
    layer = ShiftedPatchTokenization(4, 12, shifted=False, epsilon=1e-5)
    config = layer.get_config()
    assert config["hidden_dim"] == 12
    old = {name: value for name, value in config.items() if name != "hidden_dim"} | {"width": 12}
    for stored in (config, old):
        again = ShiftedPatchTokenization.from_config(stored)
        assert again.get_config() == config
    assert "width" in old  # the caller's dictionary is left alone


@pytest.mark.slow
def test_a_model_of_the_old_vocabulary_opens_in_keras(tmp_path):
    config = VitConfig(image_size=32, patch_size=8, hidden_dim=24, num_layers=1, mlp_units=(8, 24))
    spec = ModelSpec(
        name="new",
        class_names=tuple(map(str, range(100))),
        input_size=config.input_size,
        image_size=config.image_size,
        mean=(127.0,) * 3,
        variance=(4e3,) * 3,
        architecture=config.architecture,
    )
    new, old = tmp_path / "new.keras", tmp_path / "old.keras"
    vitsd.save_model(build_vit(config, mean=spec.mean, variance=spec.variance), new, spec)
    with zipfile.ZipFile(new) as archive, zipfile.ZipFile(old, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "config.json":
                assert b'"hidden_dim": 24' in content
                content = content.replace(b'"hidden_dim": 24', b'"width": 24')
                content = content.replace(b"vitsd.model.layers", b"vitsd.layers")
            changed.writestr(name, content)
    model = keras.saving.load_model(old, safe_mode=True)
    assert model.get_layer(names.TOKENIZATION).hidden_dim == 24
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    ours, _ = vitsd.load_model(new)
    expected = ours.predict(images, verbose=0)
    np.testing.assert_array_equal(model.predict(images, verbose=0), expected)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="multiples of the patch size"):
        ShiftedPatchTokenization(6, 8).build((None, 70, 72, 3))
    with pytest.raises(ValueError, match="at least 2 tokens"):
        LocalitySelfAttention(2, 4).build((None, 1, 8))
