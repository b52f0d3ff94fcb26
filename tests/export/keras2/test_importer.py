"""Genuine Keras 2 SavedModels are imported with the same logits; others are refused."""

import json
import shutil

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tf_keras")
import keras2_example

from vitsd import load_dataset, load_model
from vitsd.evaluation.predict import predict_logits
from vitsd_export import export
from vitsd_export.keras2 import import_saved_model
from vitsd_runtime import Classifier, UsageError, VitsdError
from vitsd_runtime.images.preprocessing import preprocess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return keras2_example.save(tmp_path_factory.mktemp("keras2") / "model")


def signature_logits(folder, images):
    function = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (name,) = function.structured_input_signature[1]
    return next(iter(function(**{name: tf.constant(images, tf.float32)}).values())).numpy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tau_is_variable": False},
        {"vanilla": True},
        {"head": (2048, 1024), "units": (128, 64), "width": 64},  # the published head
        {"depth": 3, "width": 16, "units": (32, 16), "patch_size": 6, "heads": 3},
    ],
)
def test_logits_are_those_of_the_saved_model(tmp_path, digits, options):
    folder = keras2_example.save(tmp_path / "saved", **options)
    spec, report = import_saved_model(folder, tmp_path / "model.keras", data="digits")
    assert report.real_images
    assert spec.input_size == (8, 8, 1)
    assert spec.architecture.lsa is spec.architecture.spt is not options.get("vanilla", False)
    model, spec = load_model(tmp_path / "model.keras")
    expected = signature_logits(folder, preprocess(digits.images[:20], spec))
    np.testing.assert_allclose(predict_logits(model, digits.images[:20]), expected, atol=1e-4)
    assert expected.std() > 0.1


def test_the_temperature_is_imported(saved, tmp_path):
    import_saved_model(saved, tmp_path / "model.keras", data="digits")
    model, _ = load_model(tmp_path / "model.keras")
    taus = [float(w.numpy()) for w in model.weights if w.path.endswith("tau")]
    assert taus == pytest.approx([1.25 * 32**0.5], rel=1e-2)


def test_a_saved_model_with_preprocessing_brings_its_statistics(tmp_path, digits):
    folder = keras2_example.save(tmp_path / "saved", raw_images=digits.images)
    spec, _ = import_saved_model(folder, tmp_path / "model.keras", data="digits")
    assert spec.mean == pytest.approx([digits.images.mean()], rel=1e-4)
    assert spec.input_size == (8, 8, 1)
    logits = predict_logits(load_model(tmp_path / "model.keras")[0], digits.images[:20])
    np.testing.assert_allclose(logits, signature_logits(folder, digits.images[:20]), atol=1e-4)


def test_without_data_statistics_are_given(saved, tmp_path, command):
    words = ("vitsd-import", saved, "--output", tmp_path / "model.keras")
    refused = command(*words)
    assert refused.returncode == 2
    assert "--mean and --variance" in refused.stderr
    done = command(*words, "--mean", "100", "--variance", "5000", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["max_difference"] < 1e-4
    assert report["real_images"] is False
    _, spec = load_model(tmp_path / "model.keras")
    assert (spec.mean, spec.variance) == ((100.0,), (5000.0,))
    assert spec.class_names == tuple("0123456789")


def test_what_was_imported_is_exported_like_any_other(saved, tmp_path, digits):
    import_saved_model(saved, tmp_path / "model.keras", data="digits")
    (artifact,) = export(tmp_path / "model.keras", "tflite", data="digits", output=tmp_path)
    expected = predict_logits(load_model(tmp_path / "model.keras")[0], digits.images[:20])
    np.testing.assert_allclose(
        Classifier.load(artifact.path).logits(digits.images[:20]), expected, atol=1e-3
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": tf.nn.relu}, "logits differ"),
        ({"activation": lambda x: tf.nn.gelu(x, approximate=True), "depth": 4}, "logits differ"),
        ({"final_bias": False}, "not a ViT of the public example"),
    ],
)
def test_other_architectures_are_refused(tmp_path, options, message):
    folder = keras2_example.save(tmp_path / "saved", **options)
    with pytest.raises(VitsdError, match=message):
        import_saved_model(folder, tmp_path / "model.keras", data="digits")
    assert not (tmp_path / "model.keras").exists()


def test_any_keras_model_that_is_no_vit_is_refused(tmp_path):
    model = keras2_example.tf_keras.Sequential([keras2_example.layers.Dense(3, input_shape=(4,))])
    model.save(tmp_path / "saved", save_format="tf")
    with pytest.raises(VitsdError, match=r"images to logits|not a ViT"):
        import_saved_model(tmp_path / "saved", tmp_path / "model.keras", data="digits")


@pytest.mark.parametrize(
    "damage",
    ["variables/variables.index", "variables/variables.data-00000-of-00001", "saved_model.pb"],
)
@pytest.mark.parametrize("keep", [None, 0.5])
def test_damage_is_named(saved, tmp_path, damage, keep):
    folder = tmp_path / "saved"
    shutil.copytree(saved, folder)
    path = folder / damage
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(VitsdError):
        import_saved_model(folder, tmp_path / "model.keras", data="digits")
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


def test_misuse(saved, tmp_path):
    output = tmp_path / "model.keras"
    for arguments, message in (
        ({"data": "no-such-source"}, "no dataset"),
        ({"mean": [1.0]}, "both"),
        ({"mean": [1.0, 2.0], "variance": [1.0, 2.0]}, "1 finite"),
        ({"mean": [float("nan")], "variance": [1.0]}, "1 finite"),
        ({"mean": [1.0], "variance": [0.0]}, "1 finite"),
    ):
        with pytest.raises(UsageError, match=message):
            import_saved_model(saved, output, **arguments)
    with pytest.raises(UsageError, match="not a SavedModel"):
        import_saved_model(tmp_path, output, data="digits")
    with pytest.raises(UsageError, match=r"must end in \.keras"):
        import_saved_model(saved, tmp_path / "model.h5", data="digits")
    output.write_text("mine")
    with pytest.raises(UsageError, match="`overwrite`"):
        import_saved_model(saved, output, data="digits")
    assert output.read_text() == "mine"


def test_drawings_on_a_flat_ground_are_compared_too(saved, tmp_path):
    generator = np.random.default_rng(0)
    images = np.zeros((100, 28, 28, 1), np.uint8)
    images[:, 10:18, 10:18] = generator.integers(0, 256, (100, 8, 8, 1))
    labels = np.arange(100) % 10
    np.savez(
        tmp_path / "drawings.npz", x_train=images, y_train=labels, x_test=images, y_test=labels
    )
    _, report = import_saved_model(
        saved, tmp_path / "my model.keras", data=str(tmp_path / "drawings.npz")
    )
    assert report.max_difference < 1e-4


def test_data_of_other_classes_is_refused(saved, tmp_path):
    digits = load_dataset("digits")
    np.savez(
        tmp_path / "two.npz",
        x_train=digits.train.images[:20],
        y_train=np.arange(20) % 2,
        x_test=digits.test.images[:20],
        y_test=np.arange(20) % 2,
    )
    with pytest.raises(UsageError, match="2 classes"):
        import_saved_model(saved, tmp_path / "model.keras", data=str(tmp_path / "two.npz"))
