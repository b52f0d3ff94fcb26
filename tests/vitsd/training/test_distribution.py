"""Several processes that train one model: they compute what one would, and end together."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from vitsd.data.dataset import Split
from vitsd.recipe import TrainingRecipe
from vitsd.training.distribution import ALONE, ProcessGroup
from vitsd.training.optimizer import compile_model
from vitsd.training.sequence import ImageSequence
from vitsd_runtime import UsageError

EPOCHS = 8


ON_DEMAND = (
    *(pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)),
    pytest.mark.skipif(
        "'cluster' not in config.option.markexpr", reason="make test-distributed runs it"
    ),
)


def trains(test):
    """Mark a test that does so in several processes: that takes minutes, most of it to compile."""
    for mark in ON_DEMAND:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An .npz file; 393 images remain for training, no multiple of the batch size."""
    random = np.random.default_rng(0)
    labels = np.arange(480) % 4
    images = random.integers(0, 60, (480, 12, 12, 3)) + 45 * labels[:, None, None, None]
    path = tmp_path_factory.mktemp("data") / "blocks.npz"
    arrays = {"x": images.astype(np.uint8), "y": labels}
    parts = {"train": slice(0, 440), "test": slice(440, None)}
    np.savez(path, **{f"{a}_{p}": arrays[a][rows] for a in arrays for p, rows in parts.items()})
    return path


_COMPILE_FAST = "--xla_backend_optimization_level=0"


def start(data, folder, *options, index=None, coordinator=None, size=2):
    """Start `vitsd-train` in a folder of its own; process ``index`` of ``size``."""
    model = "--preset tiny --image-size 12 --patch-size 6 --num-layers 1 --hidden-dim 16"
    recipe = f"--batch-size 32 --epochs {EPOCHS} --ema-momentum 0.9 --crop-padding 1"
    words = [*model.split(), *recipe.split(), "--data", data, "--output", "run", *options]
    if index is not None:
        words += ["--distribute", "--num-processes", size, "--process-id", index]
        words += ["--coordinator", coordinator]
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "vitsd.cli.train", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": _COMPILE_FAST},
    )


def start_two(data, folder, *options, others=()):
    """Process 0, and process 1 with other options or data."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    other = dict(others)
    return (
        start(data, folder / "0", *options, index=0, coordinator=coordinator),
        start(
            other.get("data", data),
            folder / "1",
            *other.get("options", options),
            index=1,
            coordinator=coordinator,
        ),
    )


def finish(process, timeout=600):
    stdout, stderr = process.communicate(timeout=timeout)
    return SimpleNamespace(returncode=process.returncode, stdout=stdout, stderr=stderr)


def rows(folder):
    try:
        with open(folder / "metrics.csv", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def assert_same_curves(first, second):
    assert len(first) == len(second) == EPOCHS
    for one, other in zip(first, second, strict=True):
        for name in ("step", "learning_rate", "loss", "val_loss"):
            assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-3), name


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The rows of a run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    done = finish(start(data, folder))
    assert done.returncode == 0, done.stderr
    return rows(folder / "run")


@trains
def test_two_processes_train_as_one_and_only_the_first_writes(data, alone, tmp_path):
    first, second = map(finish, start_two(data, tmp_path))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "Test accuracy" in first.stdout
    assert second.stdout == second.stderr == ""
    assert list((tmp_path / "1").iterdir()) == []
    assert_same_curves(rows(tmp_path / "0/run"), alone)


@trains
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_all_and_one_alone_goes_on(data, alone, tmp_path, lost):
    processes = start_two(data, tmp_path)
    while len(rows(tmp_path / "0/run")) < 2:
        time.sleep(0.01)
        assert processes[0].poll() is None
    processes[lost].kill()
    other = finish(processes[1 - lost])
    finish(processes[lost])
    assert other.returncode not in (0, None)
    last = other.stderr.splitlines()[-1]
    assert last.startswith("vitsd-train: error: ")
    assert "start all of them again with --resume" in last
    resumed = finish(start(data, tmp_path / "0", "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert_same_curves(rows(tmp_path / "0/run"), alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "message"),
    [
        pytest.param("options", "learning_rate is null in process 0", marks=ON_DEMAND),
        ("data", "blocks."),
    ],
)
def test_other_options_or_other_images_are_refused_by_all(data, tmp_path, other, message):
    with np.load(data) as stored:
        arrays = dict(stored)
    arrays["x_train"][0] ^= 1
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / data.name, **arrays)
    others = {"options": ["--learning-rate", "0.5"], "data": tmp_path / "other" / data.name}
    for done in map(finish, start_two(data, tmp_path, others={other: others[other]})):
        assert done.returncode == 2, done.stderr
        assert "Process 1 was started differently, or has other files" in done.stderr
        assert message in done.stderr
    assert not (tmp_path / "0/run").exists()


@pytest.mark.slow
def test_without_other_processes_it_is_said_how_they_are_found(command, data):
    done = command("vitsd-train", "--distribute", "--data", data, env={"KERAS_BACKEND": "jax"})
    assert done.returncode == 2
    assert "The other processes can't be found" in done.stderr
    assert "--num-processes 1" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--num-processes 2", "--num-processes is for --distribute"),
        ("--distribute --backend tensorflow", "works on JAX alone"),
        ("--distribute --coordinator here --num-processes 2 --process-id 0", "HOST:PORT"),
        ("--distribute --coordinator a:1 --num-processes 2 --process-id 2", "from 0 to 1"),
        ("--distribute --num-processes 1 --process-id 1", "from 0 to 0"),
        ("--distribute --process-id -1", "--process-id"),
    ],
)
def test_set_ups_that_can_not_work_are_misuse(command_here, monkeypatch, options, message):
    monkeypatch.delenv("KERAS_BACKEND")
    done = command_here("vitsd-train", "--data", "digits", *options.split())
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1", ""])
def test_a_port_that_is_taken_is_said(command_here, monkeypatch, address):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with socket.create_server((address, 0)) as taken:
        words = ["--coordinator", f"localhost:{taken.getsockname()[1]}", "--process-id", "0"]
        options = ["--distribute", "--num-processes", "2", *words]
        done = command_here("vitsd-train", "--data", "digits", *options)
    assert done.returncode == 1
    assert "of --coordinator can't be used here: Address already in use" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_for_processes_that_do_not_come_can_be_ended(data, number):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        words = ["--distribute", "--num-processes", "2", "--process-id", "1", "--data", str(data)]
        words += ["--coordinator", f"127.0.0.1:{silent.getsockname()[1]}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "vitsd.cli.train", *words],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "KERAS_BACKEND": "jax"},
        )
        silent.settimeout(100)
        silent.accept()[0].close()
        process.send_signal(number)
        said = process.communicate(timeout=100)[1]
    assert process.returncode == -number
    assert "the processes did not come together" in said


def test_a_variable_that_is_no_number_is_named(command_here, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "two")
    done = command_here("vitsd-train", "--data", "digits", "--distribute")
    assert done.returncode == 2
    assert "KERAS_DISTRIBUTION_NUM_PROCESSES must be a whole number; got 'two'" in done.stderr


def test_a_batch_must_be_divisible_among_the_devices():
    with pytest.raises(UsageError, match="multiple of 3; got 32"):
        ProcessGroup(0, 3, 3).require_divisible(32)


def split_of(count, kind=np.ndarray):
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return Split(images.view(kind), np.arange(count) % 3)


def sequence(group, split):
    return ImageSequence(split, 3, batch_size=8, seed=5, group=group)


@pytest.mark.parametrize("devices", [2, 4])
def test_the_shares_of_all_processes_are_the_batch_of_one(devices):
    split = split_of(13)
    shares = [sequence(ProcessGroup(index, 2, devices), split) for index in (0, 1)]
    whole = sequence(ALONE, split)
    for batch in range(len(whole)):
        parts = zip(*(share[batch] for share in shares), strict=True)
        images, labels, weights = map(np.concatenate, parts)
        count = len(whole[batch][0])
        np.testing.assert_array_equal(images[:count], whole[batch][0])
        np.testing.assert_array_equal(labels[:count], whole[batch][1])
        assert not labels[count:].any()
        assert not weights[count:].any()
        assert len(weights) % devices == 0
        assert weights[:count].sum() == pytest.approx(len(weights))


def test_each_process_reads_its_share_alone():
    class Counted(np.ndarray):
        read = 0

        def __getitem__(self, key):
            Counted.read += np.size(key)
            return np.asarray(self)[key]

    sequence(ProcessGroup(1, 2, 2), split_of(16, Counted))[0]
    assert Counted.read == 4


def test_rows_that_fill_up_a_batch_change_neither_loss_nor_accuracy():
    random = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    compile_model(model, TrainingRecipe(label_smoothing=0.1), steps_per_epoch=1)
    x, y = random.normal(size=(5, 4)).astype("float32"), np.eye(6, dtype="float32")[[0, 1, 2, 0, 3]]
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    filled_x, filled_y = (np.concatenate([a, np.zeros((3, a.shape[1]), a.dtype)]) for a in (x, y))
    weights = np.array([8 / 5] * 5 + [0] * 3, "float32")
    found = model.evaluate(filled_x, filled_y, sample_weight=weights, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, abs=1e-6)
