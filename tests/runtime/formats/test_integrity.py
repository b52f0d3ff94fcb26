"""Every flipped bit of a model or its spec is noticed, and so is what was put between or behind."""

import dataclasses
import json
import os
import random
import shutil
import warnings
import zipfile
from pathlib import Path

import pytest

from vitsd_runtime import UsageError, VitsdError, read_spec
from vitsd_runtime.formats import require_spec, write_spec
from vitsd_runtime.formats.saved_model import find_saved_model
from vitsd_runtime.spec import MAX_MODEL_BYTES

OLD = Path(__file__).parents[1] / "data" / "schema1"
MODELS = ["digits-float32.tflite", "digits.onnx", "digits.keras", "digits_saved_model"]
FILES = MODELS[:2]


@pytest.fixture
def model(tmp_path):
    """A function that copies a model, with a spec as it is written today."""

    def copy(name: str) -> Path:
        source, target = OLD / name, tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
        write_spec(target, read_spec(target))
        return target

    return copy


def files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("name", MODELS)
def test_a_flipped_bit_is_noticed_wherever_it_is(model, name):
    path = model(name)
    for file in files_of(path):
        content = bytearray(file.read_bytes())
        bits = random.Random(0).sample(range(8 * len(content)), 60)
        ends = range(8 * len(content) - 8 * 60, 8 * len(content), 7)  # around the spec, in archives
        for bit in {*bits, *ends}:
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
            with pytest.raises(VitsdError):
                require_spec(path)
            content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
    require_spec(path)


@pytest.mark.parametrize("name", MODELS)
def test_a_changed_spec_is_noticed_and_named(model, name):
    path = model(name)
    spec_file = find_saved_model(path) / "assets.extra/vitsd.json" if path.is_dir() else path
    content = spec_file.read_bytes()
    changed = content.replace(b'"resize_mode": "crop"', b'"resize_mode": "cr0p"')
    archive = name.endswith((".keras", ".tflite"))  # which has a CRC-32 too
    expected = "damaged" if archive else "unusable"
    spec_file.write_bytes(changed)
    assert changed != content
    with pytest.raises(VitsdError, match=expected):
        read_spec(path)
    spec_file.write_bytes(content.replace(b'"preset": "tiny"', b'"preset": "Tiny"'))
    with pytest.raises(VitsdError, match="damaged"):
        read_spec(path)


def test_each_file_of_a_saved_model_counts(model):
    path = model("digits_saved_model")
    assert len(read_spec(path).integrity.files) == 3
    data = next(path.rglob("variables.data*"))
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    with pytest.raises(VitsdError, match=r"SHA-256 of variables/variables\.data"):
        read_spec(path)
    data.unlink()
    with pytest.raises(VitsdError, match=r"variables\.data"):
        read_spec(path)
    assert read_spec(path, verify=False)


@pytest.mark.parametrize("name", FILES)
def test_the_model_is_all_that_stands_in_front_of_the_spec(model, name):
    path = model(name)
    spec = read_spec(path)
    size = spec.integrity.size
    content = path.read_bytes()
    for forged in (content[:size] + b"\0" * 8 + content[size:], content + b"\0" * 8):
        path.write_bytes(forged)
        with pytest.raises(VitsdError):
            require_spec(path)
    path.write_bytes(content)
    for smaller in (0, 1, size - 1):
        path.write_bytes(content.replace(b'"size": %d' % size, b'"size": %d' % smaller))
        with pytest.raises(VitsdError):
            require_spec(path)


def test_a_size_of_nothing_is_refused(model):
    spec = read_spec(model("digits.onnx"))
    with pytest.raises(UsageError, match=r"integrity\.size"):
        dataclasses.replace(spec.integrity, size=0)


@pytest.mark.parametrize("entry", ["integrity", "spec_sha256"])
def test_a_spec_without_its_digest_is_no_older_one(model, entry):
    path = model("digits_saved_model")
    file = next(path.rglob("vitsd.json"))
    file.write_text(file.read_text().replace(f'"{entry}"', f'"{entry[:-1]}x"'))
    with pytest.raises(VitsdError, match=r"SHA-256|can't be checked"):
        read_spec(path)


@pytest.mark.parametrize("name", MODELS)
def test_older_files_have_no_digest_of_the_spec_and_are_read(name):
    integrity = read_spec(OLD / name).integrity
    assert (integrity.spec_sha256, integrity.files) == (None, {})


@pytest.mark.parametrize("name", MODELS)
def test_the_same_model_and_spec_make_the_same_bytes(model, name):
    path = model(name)
    content = [file.read_bytes() for file in files_of(path)]
    spec = read_spec(path)
    assert write_spec(path, spec) == spec
    assert [file.read_bytes() for file in files_of(path)] == content


@pytest.mark.parametrize("name", MODELS)
def test_a_damaged_model_gets_no_new_spec(model, name):
    path = model(name)
    spec = read_spec(path)
    damaged = next(path.rglob("saved_model.pb")) if path.is_dir() else path
    content = bytearray(damaged.read_bytes())
    content[1000] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(VitsdError, match="damaged"):
        write_spec(path, spec)
    assert damaged.read_bytes() == content


def test_a_keras_file_holds_what_keras_writes_and_nothing_else(model):
    path = model("digits.keras")
    for name, message in (("pad", "holds pad"), ("../evil", "holds"), ("config.json", "twice")):
        copy = shutil.copyfile(path, path.with_name("copy.keras"))
        with warnings.catch_warnings(), zipfile.ZipFile(copy, "a") as archive:
            warnings.simplefilter("ignore")  # of zipfile, about a name that is there
            archive.writestr(name, b"x")
        with pytest.raises(VitsdError, match=message):
            read_spec(copy)


def test_an_archive_with_many_members_is_not_listed(tmp_path):
    path = tmp_path / "many.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(2000):
            archive.writestr(f"member-{i}", b"")
        archive.writestr("vitsd.json", "{}")
    with pytest.raises(VitsdError, match="too many members"):
        read_spec(path)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx", ".keras"])
def test_a_sparse_file_is_not_read(tmp_path, suffix):
    path = tmp_path / f"huge{suffix}"
    path.touch()
    os.truncate(path, MAX_MODEL_BYTES + 1)
    with pytest.raises(VitsdError, match="has 536,870,913 bytes"):
        read_spec(path)


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        read_spec(tmp_path / "pipe.onnx")


def test_an_escape_sequence_in_a_name_is_not_printed(tmp_path):
    path = tmp_path / "a\x1b[31m\n.onnx"
    path.touch()
    with pytest.raises(VitsdError) as error:
        read_spec(path)
    assert str(error.value).isprintable()
    assert r"a\x1b[31m\n.onnx" in str(error.value)


def test_the_digest_of_a_spec_is_over_its_bytes(model):
    # So that others can check it: the JSON as it stands there, with zeros for the digits.
    import hashlib

    path = model("digits_saved_model")
    content = next(path.rglob("vitsd.json")).read_text()
    own = json.loads(content)["integrity"]["spec_sha256"]
    assert hashlib.sha256(content.replace(own, "0" * 64).encode()).hexdigest() == own
