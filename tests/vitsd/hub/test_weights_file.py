"""A .keras file holds the weights of its architecture, plainly, or Keras does not see it."""

import io
import math
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from vitsd.config import VitConfig
from vitsd.hub.saving import load_model
from vitsd.hub.weights_file import check_weights, largest_file
from vitsd_runtime import VitsdError, read_spec
from vitsd_runtime.formats import write_spec

OLD = Path(__file__).parents[2] / "runtime/data/schema1/digits.keras"
SHAPES = [(3, 4), (4,), (), (4,)]


def weights_file(change=lambda file: None, **options) -> bytes:
    """A file as Keras writes them, with one change."""
    content = io.BytesIO()
    with h5py.File(content, "w", **options) as file:
        for i, shape in enumerate(SHAPES[:-1]):
            group = file.create_group(f"layers/dense_{i}/vars")
            group.attrs["name"] = f"block_{i}"
            group["0"] = np.ones(shape, np.float32)
        file["layers/dense_0/vars/1"] = np.ones(4, np.float32)
        change(file)
    return content.getvalue()


def test_plain_weights_are_let_through():
    for libver in ("earliest", "latest"):
        check_weights(weights_file(libver=libver), SHAPES)


def test_the_state_of_training_is_passed_over():
    def train(file):
        file["optimizer/vars/0"] = np.int64(7)
        file["optimizer/vars/1"] = np.ones((3, 4), np.float32)

    check_weights(weights_file(train), SHAPES)


def replaced(**how):
    def change(file):
        del file["layers/dense_0/vars/0"]
        file.create_dataset(
            "layers/dense_0/vars/0", **{"shape": (3, 4), "dtype": np.float32, **how}
        )

    return change


def linked(link):
    def change(file):
        file["layers/more"] = link(file)

    return change


def virtual(file):
    layout = h5py.VirtualLayout((3, 4), np.float32)
    layout[:] = h5py.VirtualSource("/etc/passwd", "data", (3, 4))
    del file["layers/dense_0/vars/0"]
    file.create_virtual_dataset("layers/dense_0/vars/0", layout)


def attribute(**attributes):
    return lambda file: file["layers"].attrs.update(attributes)


def a_group_instead(file):
    del file["layers/dense_0/vars/0"]
    file.create_group("layers/dense_0/vars/0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (a_group_instead, r"shape \(3, 4\)"),
        (replaced(shape=(4, 3), data=np.ones((4, 3))), r"shape \(4, 3\)|shape \(3, 4\)"),
        (replaced(external=[("/etc/passwd", 0, 48)]), "data in another file|elsewhere"),
        (virtual, "data in pieces or elsewhere"),
        (replaced(compression="gzip", data=np.ones((3, 4))), "data in pieces or elsewhere"),
        (replaced(chunks=(1, 4), data=np.ones((3, 4))), "data in pieces or elsewhere"),
        (replaced(), "fewer numbers than its shape says"),  # never written: HDF5 fills it in
        (replaced(shape=(30_000, 25_000)), "fewer numbers"),
        (replaced(dtype="S4", data=np.full((3, 4), b"x")), "other data than numbers"),
        (replaced(dtype=h5py.string_dtype()), "other data than numbers"),
        (replaced(data=np.ones((3, 4)), dtype=np.int32), "other data than numbers"),
        (linked(lambda file: h5py.SoftLink("/layers")), "a link at /layers/more"),
        (linked(lambda file: h5py.ExternalLink("/etc/passwd", "/")), "a link at /layers/more"),
        (linked(lambda file: file["layers"]), "an object with several names"),
        (linked(lambda file: np.dtype("f4")), "a stored type"),
        (attribute(pickle=np.void(b"x")), "an attribute that is no short text"),
        (attribute(long=np.bytes_(b"x" * 5000)), "an attribute that is no short text"),
        (attribute(**{f"a{i}": "x" for i in range(9)}), "too many attributes"),
        (lambda file: file.create_group("x/" * 400), "more objects than a model has"),
        (lambda file: file.create_dataset("more", data=np.ones(5, "f4")), r"shape \(5,\)"),
        (lambda file: file.__delitem__("layers/dense_1"), r"shape \(4,\)"),
    ],
)
def test_what_keras_does_not_write_is_refused(change, message):
    with pytest.raises(VitsdError, match=message):
        check_weights(weights_file(change), SHAPES)


def test_damage_is_one_line():
    content = bytearray(weights_file())
    for start in range(0, len(content) - 8, 40):
        damaged = content.copy()
        damaged[start : start + 8] = b"\xff" * 8
        message = ""
        try:
            check_weights(bytes(damaged), SHAPES)
        except VitsdError as error:
            message = str(error)
        assert message.isprintable()


def keras_file(folder: Path, weights: bytes | None = None, **changes) -> Path:
    """A signed copy of a small model with other weights or another spec."""
    path = folder / "model.keras"
    with zipfile.ZipFile(OLD) as source, zipfile.ZipFile(path, "w") as target:
        own = source.read("model.weights.h5")
        target.writestr("model.weights.h5", own if weights is None else weights)
    write_spec(path, read_spec(OLD).replace(**changes))
    return path


def test_a_model_whose_weights_are_elsewhere_is_refused(tmp_path):
    with pytest.raises(VitsdError, match=r"elsewhere|another file") as error:
        load_model(keras_file(tmp_path, weights_file(virtual)))
    assert str(error.value).startswith(f"{tmp_path}/model.keras: ")


def test_weights_in_the_places_of_others_are_one_line(tmp_path):
    with zipfile.ZipFile(OLD) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content, "r+") as file:
        file.move("layers/layer_normalization/vars", "layers/another/vars")
    with pytest.raises(VitsdError, match="don't fit its architecture") as error:
        load_model(keras_file(tmp_path, content.getvalue()))
    assert str(error.value).isprintable()


def test_weights_that_unpack_to_more_than_the_architecture_takes_are_not_read(tmp_path):
    path = keras_file(tmp_path, bytes(10**8))
    tracemalloc.start()
    with pytest.raises(VitsdError, match="larger than the"):
        load_model(path)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_a_copy_is_loaded(tmp_path):
    model, spec = load_model(shutil.copyfile(OLD, tmp_path / "copy.keras"))
    config = VitConfig.from_spec(spec)
    shapes = [
        tuple(weight.shape) for weight in model.weights if "normalization/" not in weight.path
    ]
    assert sorted(shapes) == sorted(config.weight_shapes())
    assert config.parameter_count() == sum(map(math.prod, shapes))
    assert largest_file(shapes) > 62_308
