"""Training: the schedule that is really used, resuming, and every option of the recipe."""

import contextlib
import csv
import dataclasses
import importlib.util
import io
import json
import logging.handlers
import math
import random
import shutil
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from vitsd import load_model
from vitsd.config import VitConfig
from vitsd.data.dataset import Dataset, Split
from vitsd.data.fingerprint import Fingerprint
from vitsd.data.sources import load_dataset
from vitsd.evaluation.confidence import fit_confidence
from vitsd.model.vit import build_vit
from vitsd.recipe import TrainingRecipe
from vitsd.training import callbacks, optimizer
from vitsd.training.augmentation import BatchAugmentation
from vitsd.training.distribution import ProcessGroup
from vitsd.training.history import read_history
from vitsd.training.optimizer import compile_model, learning_rate_schedule
from vitsd.training.run import RunFolder
from vitsd.training.sequence import ImageSequence
from vitsd.training.train import train
from vitsd_runtime import UsageError, VitsdError, read_spec
from vitsd_runtime.spec import AugmentationRanges

pytestmark = pytest.mark.slow

CONFIG = VitConfig(
    image_size=8,
    patch_size=4,
    hidden_dim=16,
    num_layers=1,
    num_heads=2,
    key_dim=8,
    mlp_units=(32, 16),
    head_units=(),
    pooling="gap",
)
RECIPE = TrainingRecipe(
    epochs=4, batch_size=32, learning_rate=3e-3, flip=False, validation_fraction=0.2, seed=3
)


ORIGIN = {"preset": "test"}


@pytest.fixture(scope="module")
def small():
    digits = load_dataset("digits")
    return dataclasses.replace(digits, train=digits.train.sample(160), test=digits.test.sample(60))


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A run that nothing interrupted: its folder, results, log, and whether it left ``random``."""
    folder = tmp_path_factory.mktemp("whole") / "my run"
    lines = logging.handlers.BufferingHandler(1000)
    logger = logging.getLogger("vitsd")
    before, level = random.getstate(), logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        results = train(CONFIG, RECIPE, small, folder, origin=ORIGIN)
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
    log = [record.getMessage() for record in lines.buffer]
    return SimpleNamespace(
        folder=folder, results=results, log=log, left_random=random.getstate() == before
    )


@pytest.fixture
def whole(finished):
    """The folder of that run. Only read it."""
    return finished.folder


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it, to spoil."""
    return RunFolder(shutil.copytree(whole, tmp_path / whole.name))


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch == self.epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now and batch >= 1:
            raise KeyboardInterrupt


def formula(step, recipe, steps):
    total = recipe.epochs * steps
    warmup = round(recipe.warmup_fraction * total)
    if step < warmup:
        return recipe.learning_rate * step / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_schedule_warms_up_linearly_and_falls_on_a_cosine(warmup):
    recipe = TrainingRecipe(epochs=10, warmup_fraction=warmup, learning_rate=1e-3)
    schedule = learning_rate_schedule(recipe, 20)
    for step in (0, 1, 9, 19, 20, 57, 150, 199, 200):
        assert float(schedule(step)) == pytest.approx(formula(step, recipe, 20), abs=1e-8)


def test_the_optimizer_uses_the_schedule_and_it_is_logged(small, whole):
    rows = read_history(whole / "metrics.csv")
    steps = math.ceil(len(small.with_validation(0.2).train) / RECIPE.batch_size)
    assert [row["step"] for row in rows] == [steps, 2 * steps, 3 * steps, 4 * steps]
    for row in rows:
        assert row["learning_rate"] == pytest.approx(formula(row["step"], RECIPE, steps), abs=1e-8)
        assert row["images_per_second"] > 0
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_processes_may_differ_in_the_patch_release_of_python(small, tmp_path, monkeypatch):
    def compared(python):
        """What processes compare before the first step."""
        found = []

        def note(_, description):
            found.append(description)
            if "versions" in description:
                raise UsageError("that is all")

        monkeypatch.setattr("vitsd.training.train.platform.python_version", lambda: python)
        monkeypatch.setattr(ProcessGroup, "require_same", note)
        with pytest.raises(UsageError, match="that is all"):
            train(CONFIG, RECIPE, small, tmp_path / "run")
        return found

    first = compared("3.11.2")
    assert compared("3.11.15") == first
    assert compared("3.12.1") != first


def test_a_finished_run_leaves_everything_that_it_promises(small, whole, finished):
    results = finished.results
    names = {path.name for path in whole.iterdir()}
    assert {
        "model.keras",
        "metrics.csv",
        "curves.png",
        "confusion.png",
        "run.json",
        "results.json",
    } <= names
    assert not [name for name in names if name.startswith(".")]
    spec = read_spec(whole / "model.keras")
    assert spec.name == "myrun"  # it becomes part of file names
    assert spec.provenance.preset == "test"
    assert spec.provenance.recipe["seed"] == 3
    assert spec.provenance.test_top1 == results["top1"]
    assert spec.augmentation == AugmentationRanges(None, 0.02, 0.2)
    seen = small.with_validation(0.2).train
    pixels = seen.images.astype(float)
    assert spec.mean[0] == pytest.approx(pixels.mean())  # of the training split only
    assert spec.variance[0] == pytest.approx(pixels.var())
    assert spec.provenance.split_rule == "content"
    assert spec.provenance.trained_on == Fingerprint.of(seen.identities).to_text()
    loaded = keras.saving.load_model(whole / "model.keras", safe_mode=True)
    predicted = np.argmax(loaded.predict(small.test.images, verbose=0), axis=1)
    assert (predicted == small.test.labels).mean() == results["top1"]
    assert json.loads((whole / "results.json").read_text())["top1"] == results["top1"]
    val = small.with_validation(0.2).val
    fitted = fit_confidence(loaded.predict(val.images, verbose=0), val.labels, RECIPE.coverage)
    assert spec.confidence.images == len(val)
    assert spec.confidence.temperature == pytest.approx(fitted.temperature, rel=1e-3)
    assert spec.confidence.threshold == pytest.approx(fitted.threshold, abs=1e-3)
    assert results["confidence"] == dataclasses.asdict(spec.confidence)


def test_test_images_that_are_trained_on_are_counted_before_training(small, tmp_path, caplog):
    mixed = dataclasses.replace(small, test=small.train.take(np.arange(40)))
    with pytest.raises(UsageError):  # and no training here
        train(CONFIG, RECIPE, mixed, tmp_path / "run", origin={"commit": "abc"})
    count = mixed.with_validation(0.2).repeats()["test"]
    assert 20 < count < 40
    assert f"{count} of 40 test images are training images too" in caplog.text


@pytest.mark.parametrize(
    ("origin", "message"), [({"commit": "abc"}, "commit"), ({"preset": ["mine"]}, "preset")]
)
def test_an_origin_that_does_not_fit_is_refused_before_training(small, tmp_path, origin, message):
    with pytest.raises(UsageError, match=message):
        train(CONFIG, RECIPE, small, tmp_path / "run", origin=origin)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("chunk", [1, 3])  # of the 4 steps of an epoch, called at once
def test_interrupted_and_resumed_is_the_same_as_uninterrupted(
    small, whole, tmp_path, monkeypatch, chunk
):
    if chunk > 1:
        monkeypatch.setattr(optimizer, "on_accelerator", lambda: True)
        monkeypatch.setattr(optimizer, "_CHUNK", chunk)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "Progress", lambda *a: Interrupt(2))
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, RECIPE, small, tmp_path / "parts")
    assert not (tmp_path / "parts" / "model.keras").exists()
    assert len(read_history(tmp_path / "parts" / "metrics.csv")) == 2
    train(CONFIG, RECIPE, small, tmp_path / "parts", resume=True)

    rows, parts = (read_history(run / "metrics.csv") for run in (whole, tmp_path / "parts"))
    assert [row["step"] for row in parts] == [row["step"] for row in rows]
    for a, b in zip(rows, parts, strict=True):
        assert b["learning_rate"] == a["learning_rate"]
        # The same images, draws and optimizer state.
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=1e-3)


def test_resuming_restores_averages_and_loss_scales(small, tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, ema_momentum=0.9, precision="mixed_float16")
    train(CONFIG, recipe, small, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "Progress", lambda *a: Interrupt(2))
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, recipe, small, tmp_path / "parts")
    train(CONFIG, recipe, small, tmp_path / "parts", resume=True)
    whole, parts = (read_history(tmp_path / name / "metrics.csv") for name in ("whole", "parts"))
    for a, b in zip(whole, parts, strict=True):
        assert (b["step"], b["learning_rate"]) == (a["step"], a["learning_rate"])
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-2)
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=2e-2)


@pytest.mark.parametrize("callback", ["BestWeights", "LastCheckpoint"])
def test_a_run_that_dies_while_it_saves_can_be_resumed(small, tmp_path, monkeypatch, callback):
    real = getattr(callbacks, callback).on_epoch_end

    def full_disk(self, epoch, logs=None):
        if epoch == 1:
            raise OSError(28, "No space left on device")
        real(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(getattr(callbacks, callback), "on_epoch_end", full_disk)
        with pytest.raises(OSError, match="No space"):
            train(CONFIG, RECIPE, small, tmp_path / "run")
    results = train(CONFIG, RECIPE, small, tmp_path / "run", resume=True)
    rows = read_history(tmp_path / "run" / "metrics.csv")
    assert len(rows) == RECIPE.epochs
    assert rows[results["epoch"] - 1]["val_top1"] == max(row["val_top1"] for row in rows)


def test_checkpoints_take_at_most_a_twentieth_of_the_time(monkeypatch):
    now, epoch_of, saved = [0.0], [0], []

    def write(path, *arrays):
        saved.append(epoch_of[0])
        now[0] += 1  # second

    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(callbacks, "_write_arrays", write)
    checkpoint = callbacks.LastCheckpoint("last.npz")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    checkpoint.set_model(model)
    for epoch_of[0], seconds in enumerate([5, 30, 5, 5, 5, 5, 5]):
        now[0] += seconds
        checkpoint.on_epoch_end(epoch_of[0])
    assert saved == [0, 1, 5]
    checkpoint.on_train_end()  # what resumes a run that is trained, but not finished
    assert saved == [0, 1, 5, 6]


def test_what_can_not_be_resumed_is_an_error(small, copy):
    copy.results.unlink()  # as if it were not finished
    checkpoint = copy.checkpoint.read_bytes()
    other, packed = io.BytesIO(), io.BytesIO()
    np.savez(other, np.zeros(3))
    np.savez_compressed(packed, np.zeros(10**6))
    contents = (other.getvalue(), packed.getvalue())
    for content in (checkpoint[:-100], checkpoint[:200], b"", *contents):
        copy.checkpoint.write_bytes(content)
        with pytest.raises(VitsdError, match=r"last\.npz can't be read .*; delete the run"):
            train(CONFIG, RECIPE, small, copy, resume=True, origin=ORIGIN)
    copy.checkpoint.unlink()  # training must not begin again without a word
    with pytest.raises(VitsdError, match=r"last\.npz can't be read .*; delete the run"):
        train(CONFIG, RECIPE, small, copy, resume=True, origin=ORIGIN)


def test_training_leaves_pythons_random_generator_as_it_was(finished):
    assert finished.left_random


def test_progress_is_logged_epoch_by_epoch(finished):
    lines = [line for line in finished.log if line.startswith("epoch")]
    rows = read_history(finished.folder / "metrics.csv")
    assert len(lines) == RECIPE.epochs
    for number, (line, row) in enumerate(zip(lines, rows, strict=True), start=1):
        assert line.startswith(f"epoch {number}/4: loss {row['loss']:.4f}, ")
        assert f"validation top-1 {100 * row['val_top1']:.2f} %" in line
    assert lines[-1].endswith("0 s left")


def test_a_terminal_shows_a_bar_with_the_time_left(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = callbacks.Progress(steps=2, batch_size=8)
    progress.set_params({"epochs": 3})
    metrics = {"loss": 1.25, "top1": 0.5}
    for epoch in (1, 2):  # of a run that was resumed after its first epoch
        progress.on_epoch_begin(epoch)
        for batch in (0, 2):  # the second is of a chunk that is longer than what is left
            progress.on_train_batch_end(batch, metrics)
        progress.on_epoch_end(epoch, metrics)
    progress.on_train_end()
    shown = terminal.getvalue()
    assert "epoch 3/3" in shown
    assert "/32 [" in shown


def test_the_time_is_written_for_people():
    times = {42: "42 s", 200: "3 min 20 s", 7500: "2 h 05 min"}
    assert {seconds: callbacks.format_seconds(seconds) for seconds in times} == times


def test_tensorboard_logs_are_written_on_request(small, tmp_path, monkeypatch):
    one = dataclasses.replace(RECIPE, epochs=1)
    train(CONFIG, one, small, tmp_path / "run", tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard" / "train").glob("events*"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"vitsd\[tensorboard"):
        train(CONFIG, one, small, tmp_path / "other", tensorboard=True)
    assert not (tmp_path / "other").exists()


def test_resuming_a_finished_run_trains_no_more(small, whole, copy):
    copy.model.unlink()
    train(CONFIG, RECIPE, small, copy, resume=True, origin=ORIGIN)
    assert copy.metrics.read_text() == (whole / "metrics.csv").read_text()
    assert copy.model.exists()


def test_a_run_is_neither_overwritten_nor_resumed_as_another(small, whole, tmp_path):
    with pytest.raises(UsageError, match="already holds a run"):
        train(CONFIG, RECIPE, small, whole)
    longer = dataclasses.replace(RECIPE, epochs=9)
    with pytest.raises(UsageError, match=r"recipe.epochs was 4, now 9"):
        train(CONFIG, longer, small, whole, resume=True)
    deeper = dataclasses.replace(CONFIG, num_layers=2)
    with pytest.raises(UsageError, match=r"config.num_layers was 1, now 2"):
        train(deeper, RECIPE, small, whole, resume=True)
    with pytest.raises(UsageError, match="no run in"):
        train(CONFIG, RECIPE, small, tmp_path / "none", resume=True)


def test_a_run_is_not_resumed_with_other_labels(small, copy):
    moved = dataclasses.replace(small.train, labels=small.train.labels[::-1].copy())
    other = dataclasses.replace(small, train=moved)
    with pytest.raises(UsageError, match=r"data\.content\.\w+ was .*, now "):
        train(CONFIG, RECIPE, other, copy, resume=True, origin=ORIGIN)


def test_runs_that_do_not_say_what_they_were_started_with_can_be_resumed(small, copy):
    run = json.loads(copy.run_file.read_text())
    del run["data"]["content"]
    copy.run_file.write_text(json.dumps(run))
    train(CONFIG, RECIPE, small, copy, resume=True, origin=ORIGIN)
    copy.run_file.write_text(json.dumps({**run, "data": None}))
    with pytest.raises(UsageError, match="data was null"):
        train(CONFIG, RECIPE, small, copy, resume=True, origin=ORIGIN)


def test_another_seed_gives_another_start(small, whole, tmp_path):
    other = dataclasses.replace(RECIPE, epochs=1, seed=4)
    train(CONFIG, other, small, tmp_path / "run")
    first, (row,) = (
        read_history(whole / "metrics.csv")[0],
        read_history(tmp_path / "run" / "metrics.csv"),
    )
    assert row["loss"] != pytest.approx(first["loss"], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "label_smoothing": 0.1, "global_clipnorm": 1.0},
        {"class_weights": "balanced", "mixup_alpha": 0.2, "precision": "mixed_float16"},
        {"rand_augment": 0.3, "crop_padding": 1, "flip": True},
        {"precision": "mixed_bfloat16", "validation_fraction": 0.0, "rotation": 0.0, "zoom": 0.0},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_option_of_the_recipe_trains(small, tmp_path, changes):
    recipe = dataclasses.replace(RECIPE, epochs=3, **changes)
    results = train(
        dataclasses.replace(CONFIG, stochastic_depth=0.1), recipe, small, tmp_path / "run"
    )
    rows = read_history(tmp_path / "run" / "metrics.csv")
    assert len(rows) == 3
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert 0 <= results["top1"] <= 1
    balanced = rows[0]["val_balanced_accuracy"] is not None
    assert balanced == (recipe.class_weights == "balanced")


def test_the_average_of_the_weights_is_what_is_kept(small, tmp_path, monkeypatch):
    class Start(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            start[:] = weights(self.model)

    def weights(model):
        return [np.array(weight) for weight in model.trainable_variables]

    def distance(run):
        ends = weights(load_model(tmp_path / run / "model.keras")[0])
        return sum(float(np.abs(a - b).sum()) for a, b in zip(ends, start, strict=True))

    start = []
    monkeypatch.setattr(callbacks, "Progress", lambda *a: Start())
    # An average that has hardly left the start; without warm-up Keras would begin it after a whole
    # first step.
    recipe = dataclasses.replace(RECIPE, epochs=1, ema_momentum=0.999, warmup_fraction=0.6)
    train(CONFIG, recipe, small, tmp_path / "averaged")
    train(CONFIG, dataclasses.replace(recipe, ema_momentum=0.0), small, tmp_path / "latest")
    assert 0 < distance("averaged") < 0.2 * distance("latest")


def test_weight_decay_is_on_matrices_only():
    model = build_vit(dataclasses.replace(CONFIG, input_size=(8, 8, 3)))
    recipe = TrainingRecipe(epochs=1, learning_rate=0.1, weight_decay=0.5, warmup_fraction=0.0)
    compile_model(model, recipe, 10)
    model.optimizer.build(model.trainable_variables)
    before = {w.path: np.array(w) for w in model.trainable_variables}
    model.optimizer.apply([keras.ops.zeros_like(w) for w in model.trainable_variables])
    moved = {w.path for w in model.trainable_variables if not np.array_equal(before[w.path], w)}
    assert moved == {path for path in before if path.endswith("/kernel")}


def test_gradients_are_clipped():
    def first_moments(clip_norm):
        model = build_vit(dataclasses.replace(CONFIG, input_size=(8, 8, 3)))
        compile_model(model, TrainingRecipe(global_clipnorm=clip_norm), 10)
        model.optimizer.build(model.trainable_variables)
        model.optimizer.apply([keras.ops.ones_like(w) for w in model.trainable_variables])
        moments = [v for v in model.optimizer.variables if v.path.endswith("_momentum")]
        assert len(moments) == len(model.trainable_variables)
        return np.sqrt(sum(float((np.array(moment) ** 2).sum()) for moment in moments))

    # Adam's first moment is a tenth of the gradient.
    assert first_moments(1.0) == pytest.approx(0.1, rel=1e-3)
    assert first_moments(0.0) > 1


def test_a_diverging_run_says_so(small, tmp_path):
    poisoned = dataclasses.replace(
        RECIPE, learning_rate=9.9, weight_decay=1e30, warmup_fraction=0.0
    )
    with pytest.raises(VitsdError, match="learning_rate"):
        train(CONFIG, poisoned, small, tmp_path / "run")


def test_batches_hold_every_image_once_and_depend_on_the_epoch():
    split = Split(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10))
    batches = ImageSequence(split, 10, 4, seed=1)
    assert len(batches) == 3

    def epoch(number):
        batches.epoch = number
        return [int(v) for i in range(3) for v in batches[i][0].ravel()]

    first = epoch(0)
    assert sorted(first) == list(range(10))
    assert epoch(1) != first
    assert epoch(0) == first
    for images, labels in (batches[i] for i in range(3)):
        np.testing.assert_array_equal(labels.argmax(axis=1), images.ravel())


def test_two_classes_and_no_validation(tmp_path, caplog):
    random = np.random.default_rng(0)
    split = Split(random.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8), np.arange(12) % 2)
    results = train(
        CONFIG,
        dataclasses.replace(RECIPE, epochs=1, validation_fraction=0),
        Dataset("two", ("a", "b"), split, split),
        tmp_path / "r",
    )
    assert results["top5"] == 1.0
    assert "two: there are 0 validation images, fewer than 30" in caplog.text
    assert read_spec(tmp_path / "r" / "model.keras").confidence is None
    with open(tmp_path / "r" / "metrics.csv") as file:
        assert next(csv.DictReader(file))["val_loss"] == ""


def test_batches_of_processes_are_those_made_alone():
    digits = load_dataset("digits")
    split = dataclasses.replace(
        digits.train, images=digits.train.images[:50], labels=digits.train.labels[:50]
    )
    augment = BatchAugmentation(TrainingRecipe(crop_padding=1, mixup_alpha=0.2, cutmix_alpha=1.0))
    alone = ImageSequence(split, 10, 20, 3, augment)
    with contextlib.closing(ImageSequence(split, 10, 20, 3, augment, workers=1)) as ahead:
        assert len(ahead) == len(alone) == 3
        for epoch, index in ((0, 0), (0, 1), (1, 0), (1, 0), (2, 1)):
            alone.epoch = ahead.epoch = epoch
            for found, expected in zip(ahead[index], alone[index], strict=True):
                np.testing.assert_array_equal(found, expected)
        # An accelerator gets batches of one size.
        assert [len(ahead[index][0]) for index in range(3)] == [20, 20, 20]
