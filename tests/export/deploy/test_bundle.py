"""A deployment installs and runs where there is only Python (here; for arm64: make arm64)."""

import dataclasses
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import vitsd_runtime
from vitsd_export.deploy import DevicePlatform, deploy
from vitsd_export.deploy.wheels import pack_runtime
from vitsd_runtime import Classifier, UsageError, VitsdError
from vitsd_runtime.formats import read_spec, write_spec

HERE = DevicePlatform(platform.machine(), f"{sys.version_info.major}.{sys.version_info.minor}")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
# The device's python3 is the one that the wheels are for.
CLEAN["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{CLEAN['PATH']}"


def sh(folder, *command, **more):
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**CLEAN, **more}
    )


@pytest.fixture(scope="module")
def deployed(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployed") / "with spaces"
    return deploy(exported / "digits-int8.tflite", folder, [HERE])


def test_it_installs_without_network_and_classifies(exported, deployed, digits, tmp_path):
    folder = tmp_path / "on the device"
    shutil.copytree(deployed, folder)
    refused = sh(tmp_path, folder / "run.sh", "x.png")
    assert refused.returncode == 2
    assert "install.sh first" in refused.stderr

    done = sh(tmp_path, folder / "install.sh", PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0")
    assert done.returncode == 0, done.stderr
    assert "Installed from wheels/." in done.stdout
    Image.fromarray(digits.images[0, ..., 0]).save(tmp_path / "a.png")
    done = sh(tmp_path, folder / "run.sh", "a.png", "--top-k", "1", "--min-confidence", "0")
    assert done.returncode == 0, done.stderr
    ((expected,),) = Classifier.load(exported / "digits-int8.tflite").predict(
        tmp_path / "a.png", top_k=1
    )
    assert done.stdout.startswith(f"a.png: {expected.label} ")
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*(p.name for p in deployed.iterdir()), "env"]
    )

    without = sh(tmp_path, folder / "run.sh")
    assert without.returncode == 2
    assert "run.sh IMAGE" in without.stderr


@pytest.mark.slow
def test_nothing_around_the_scripts_changes_what_they_run(tmp_path):
    model = Path(__file__).parents[2] / "runtime" / "data" / "schema1" / "digits-float32.tflite"
    folder, photos, elsewhere = (tmp_path / name for name in ("-on the device", "p", "elsewhere"))
    deploy(model, folder, [HERE])
    photos.mkdir()
    (elsewhere / folder.name).mkdir(parents=True)
    for name in ("json", "pip", "venv", "numpy", "PIL", "sitecustomize", "vitsd_runtime"):
        (photos / f"{name}.py").write_text("open('was-run', 'w')")
    for name in ("install.sh", "run.sh"):
        (photos / name).symlink_to(os.path.relpath(folder / name, photos))
    for name in ("a.png", "-b.png"):
        Image.new("L", (8, 8), 200).save(photos / name)
    around = {
        "CDPATH": str(elsewhere),
        "PYTHONPATH": str(photos),
        "PYTHONHOME": "/nowhere",
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
    }
    done = sh(photos, "./install.sh", **around)
    assert done.returncode == 0, done.stderr
    expected = Classifier.load(model, num_threads=1).predict(photos / "a.png")[0][0].label
    for cwd, *words in (
        (photos, "./run.sh", "a.png"),
        (photos, "./run.sh", "--", "-b.png"),
        (tmp_path, f"{folder.name}/run.sh", "p/a.png"),
        (folder, "sh", "run.sh", "../p/a.png"),
    ):
        done = sh(cwd, *words, **around)
        assert done.returncode == 0, done.stderr
        assert f".png: {expected} " in done.stdout
        assert not (cwd / "was-run").exists()


def test_its_readme_says_what_was_filled_in(deployed, exported, tmp_path):
    bare = deploy(exported / "digits-int8.tflite", tmp_path / "bare")
    for folder, holds in (
        (deployed, f"all that is needed by Python {HERE.python} on"),
        (bare, "the runtime, but no engine."),
    ):
        assert f"`wheels/` holds {holds}" in (folder / "README.md").read_text()


def test_a_failed_installation_leaves_the_one_before_it(deployed, tmp_path):
    folder = tmp_path / "device"
    shutil.copytree(deployed, folder)
    (folder / "env").mkdir()
    (folder / "env" / "works").touch()
    for wheel in folder.glob("wheels/ai_edge_litert*"):
        wheel.unlink()
    assert (
        sh(
            tmp_path, folder / "install.sh", PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0"
        ).returncode
        == 1
    )
    assert [p.name for p in (folder / "env").iterdir()] == ["works"]


def test_a_machine_that_answers_differently_is_refused(deployed, tmp_path):
    folder = tmp_path / "device"
    shutil.copytree(deployed, folder)
    model = folder / "digits-int8.tflite"
    write_spec(model, read_spec(model).replace(mean=(1.0,)))
    (folder / "env").mkdir()
    (folder / "env" / "works").touch()
    done = sh(tmp_path, folder / "install.sh", PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0")
    assert done.returncode == 1
    assert "the stage tensor fails" in done.stderr
    assert "Ready" not in done.stdout
    assert [p.name for p in (folder / "env").iterdir()] == ["works"]


def test_an_installation_without_room_says_so(tmp_path):
    model = Path(__file__).parents[2] / "runtime" / "data" / "schema1" / "digits-float32.tflite"
    folder = deploy(model, tmp_path / "device")
    before = sorted(folder.iterdir())
    done = sh(folder, "sh", "-c", 'trap "" XFSZ; ulimit -f 0; exec ./install.sh')
    assert done.returncode == 1
    assert "File too large" in done.stderr  # as Python said; it could be said to no file
    assert sorted(folder.iterdir()) == before


def test_a_failed_installation_leaves_nothing_and_says_what_to_do(deployed, tmp_path):
    folder = tmp_path / "device"
    shutil.copytree(deployed, folder)
    for wheel in folder.glob("wheels/ai_edge_litert*"):
        wheel.unlink()
    done = sh(tmp_path, folder / "install.sh", PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0")
    assert done.returncode == 1
    assert "--wheels" in done.stderr
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in deployed.iterdir())


def test_the_packed_wheel_is_a_valid_one(tmp_path):
    wheel = pack_runtime(tmp_path)
    assert pack_runtime(tmp_path).read_bytes() == wheel.read_bytes()
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        tmp_path / "site",
    ]
    subprocess.run([*install, wheel], check=True)
    package = Path(vitsd_runtime.__file__).parent
    files = {p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in files if "__pycache__" not in name}
    assert {"vitsd_runtime/py.typed", "vitsd_runtime/engines/tflite.py"} <= packed
    assert any(name.endswith(".tflite") for name in packed)  # the shipped model
    code = "import vitsd_runtime; print(vitsd_runtime.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert str(tmp_path / "site") in done.stdout


def test_names_that_a_shell_would_run_are_not_used(exported, tmp_path):
    shutil.copyfile(exported / "digits-int8.tflite", tmp_path / "a';touch bad;'.tflite")
    folder = deploy(tmp_path / "a';touch bad;'.tflite", tmp_path / "out")
    assert (folder / "model.tflite").exists()
    assert "touch" not in (folder / "run.sh").read_text() + (folder / "install.sh").read_text()


def test_what_stands_in_the_way_is_kept(exported, tmp_path):
    model, folder = exported / "digits-int8.tflite", tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "install.sh").write_text("of another project")
    for overwrite in (False, True):  # not a deployment: not to be replaced
        with pytest.raises(UsageError, match="exists"):
            deploy(model, folder, overwrite=overwrite)
    assert {p.name for p in folder.iterdir()} == {"notes.txt", "install.sh"}
    shutil.rmtree(folder)
    deploy(model, folder)
    with pytest.raises(UsageError, match="`overwrite`"):
        deploy(model, folder)
    deploy(exported / "digits.onnx", folder, overwrite=True)
    assert (folder / "digits.onnx").exists()
    assert ".whl[onnx]'" in (folder / "install.sh").read_text()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "target", "extra"),
    [
        ("digits-int8.tflite", "litert", "tflite"),
        ("digits-int8.tflite", "tflite-runtime-2.14", "tflite-runtime"),
        ("digits.onnx", "onnxruntime", "onnx"),
        ("digits_saved_model", "tensorflow", "tensorflow"),
    ],
)
def test_the_engine_is_that_of_the_files_target(artifact, tmp_path, name, target, extra):
    model = artifact(name.removeprefix("digits"))
    spec = read_spec(model)
    write_spec(model, spec.replace(export=dataclasses.replace(spec.export, target=target)))
    folder = deploy(model, tmp_path / "out")
    assert f".whl[{extra}]'" in (folder / "install.sh").read_text()


def test_a_trained_model_is_refused(trained, tmp_path):
    with pytest.raises(UsageError, match="export it first"):
        deploy(trained / "model.keras", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_wheels_that_do_not_exist_leave_nothing(exported, tmp_path):
    with pytest.raises(VitsdError, match=r"no wheels for Python 3\.99 on aarch64"):
        deploy(
            exported / "digits-int8.tflite", tmp_path / "out", [DevicePlatform("aarch64", "3.99")]
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["aarch64", "armv7l,3.11", "aarch64,4", "aarch64,3.11.2", ""])
def test_impossible_devices_are_refused(text):
    with pytest.raises(UsageError):
        DevicePlatform.parse(text)


def test_the_command_exports_and_deploys(command, trained, tmp_path):
    words = (
        "vitsd-export",
        trained / "model.keras",
        "--output",
        tmp_path / "files",
        "--deploy",
        tmp_path / "device",
    )
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "./install.sh" in done.stdout
    assert {p.name for p in (tmp_path / "device").iterdir()} == {
        "digits-float32.tflite",
        "install.sh",
        "run.sh",
        "README.md",
        "wheels",
    }
    assert os.access(tmp_path / "device" / "run.sh", os.X_OK)
    readme = (tmp_path / "device" / "README.md").read_text()
    assert "@" not in readme


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wheels", "aarch64,3.11"], "--deploy DIR"),
        (["--deploy", "out", "--format", "all"], "one file"),
        (["--deploy", "out", "--quantize", "none", "int8"], "one file"),
        (["--deploy", "out", "--wheels", "pi"], "aarch64,3.11"),
        (["--deploy", "."], "current folder"),
        (["--deploy", ".."], "current folder"),
        (["--deploy", "out", "--target", "tflite-micro"], "No Python runs on tflite-micro"),
        (["--deploy", "files"], "two folders"),
    ],
)
def test_misuse_is_named_before_anything_is_exported(
    command_here, trained, tmp_path, arguments, message
):
    (tmp_path / "notes.txt").touch()
    done = command_here(
        "vitsd-export",
        trained / "model.keras",
        "--output",
        tmp_path / "files",
        *arguments,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
