"""What happens around the training steps: reproducible randomness, metrics.csv, checkpoints, progress."""

from __future__ import annotations

import csv
import math
import sys
import time
import zipfile
from pathlib import Path

import keras
import numpy as np

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.system.signals import check_interrupted

COLUMNS = (
    "epoch",
    "step",
    "learning_rate",
    "loss",
    "top1",
    "top5",
    "val_loss",
    "val_top1",
    "val_top5",
    "seconds",
    "images_per_second",
)


class Interruptible(keras.callbacks.Callback):
    """Stop after the step in which Ctrl-C was pressed, wherever the exception was dropped."""

    def on_train_batch_end(self, batch, logs=None):
        check_interrupted()

    def on_test_batch_end(self, batch, logs=None):
        check_interrupted()

    def on_epoch_end(self, epoch, logs=None):
        check_interrupted()


class EpochSeeds(keras.callbacks.Callback):
    """Make every epoch's randomness a function of the seed and its number, so that a resumed run repeats nothing."""

    def __init__(self, batches, seed: int):
        super().__init__()
        self._batches, self._seed = batches, seed

    def on_epoch_begin(self, epoch, logs=None):
        self._batches.epoch = epoch
        generators = [
            generator
            for layer in self.model._flatten_layers(include_self=False)
            for name in ("seed_generator", "generator")
            if isinstance(generator := getattr(layer, name, None), keras.random.SeedGenerator)
        ]
        for number, generator in enumerate(generators):
            generator.state.assign([self._seed * 65_537 + epoch, number])


class MetricsLog(keras.callbacks.Callback):
    """Rows for ``metrics.csv``, written whole after every epoch; learning rate and step are those at the epoch's end."""

    def __init__(self, path: Path, images_per_epoch: int, history: list[dict]):
        super().__init__()
        self._path, self._images = path, images_per_epoch
        self.history = history

    def on_epoch_begin(self, epoch, logs=None):
        self._start, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs=None):
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        trained = (self._trained or time.perf_counter()) - self._start
        row = {
            "epoch": epoch + 1,
            "step": int(self.model.optimizer.iterations),
            "learning_rate": float(self.model.optimizer.learning_rate),
            **{name: float(logs[name]) for name in COLUMNS if name in logs},
            "seconds": round(trained, 3),
            "images_per_second": round(self._images / trained, 2),
        }
        self.history.append(row)
        write_history(self._path, self.history)
        if not math.isfinite(row["loss"]):
            raise VitsdError(
                f"The loss became {row['loss']} in epoch {epoch + 1}. Try a lower --learning-rate, --clip-norm 1, or "
                "--precision float32."
            )


def write_history(path: Path, history: list[dict]) -> None:
    """Write the rows of ``metrics.csv``."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(history)


def read_history(path: Path) -> list[dict]:
    """The rows of a ``metrics.csv``; numbers as numbers, absent values as None."""
    if not path.is_file():
        return []
    try:
        with open(path, newline="") as file:
            return [
                {
                    k: int(v) if k in ("epoch", "step") else float(v) if v else None
                    for k, v in row.items()
                }
                for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError, csv.Error) as error:
        raise VitsdError(f"{path} is damaged ({error}); delete the run and start anew.") from error


class LastCheckpoint(keras.callbacks.Callback):
    """Weights and optimizer state after every epoch, for ``--resume``."""

    def __init__(self, path: Path):
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch, logs=None):
        with atomic_write(self._path) as temporary:
            self.model.save_weights(temporary)


class BestWeights(keras.callbacks.Callback):
    """Keep the weights of the epoch with the best validation top-1 (without validation: the latest).

    Args:
        path: of an ``.npz`` file with the weights, the epoch and its score; one that is there counts as the best so far.
        swap: Keras' callback that swaps in the moving average of the weights, if it is that what counts.
    """

    def __init__(self, path: Path, swap: keras.callbacks.SwapEMAWeights | None = None):
        super().__init__()
        self._path, self._swap = path, swap
        self._best = read_best(path)[1] if path.exists() else -1.0

    def on_epoch_end(self, epoch, logs=None):
        score = float(logs.get("val_top1", epoch))
        if score < self._best:
            return
        self._best = score
        if self._swap:
            self._swap.on_test_begin()
        with atomic_write(self._path) as temporary:
            np.savez(temporary, *self.model.get_weights(), epoch=epoch + 1, score=score)
        if self._swap:
            self._swap.on_test_end()


def read_best(path: Path) -> tuple[int, float, list[np.ndarray]]:
    """Epoch, score and weights that :class:`BestWeights` kept."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            weights = [stored[f"arr_{i}"] for i in range(len(stored.files) - 2)]
            return int(stored["epoch"]), float(stored["score"]), weights
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise VitsdError(
            f"{path} is damaged or missing ({error}); delete the run and start anew."
        ) from error


class Progress(keras.callbacks.Callback):
    """One line per epoch, and on a terminal a bar with the time left in the whole run."""

    def __init__(self, steps: int, batch_size: int):
        super().__init__()
        self._steps, self._batch_size = steps, batch_size
        self._done, self._spent = 0, 0.0
        self._terminal = sys.stdout.isatty()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._start, self._shown = epoch, time.perf_counter(), 0.0

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if not self._terminal or now - self._shown < 0.2:
            return
        self._shown = now
        spent = now - self._start
        steps_left = self._steps * (self.params["epochs"] - self._epoch) - batch - 1
        # The first step compiles, so earlier epochs tell more than this one's beginning.
        pace = (self._spent + spent) / (self._done + batch + 1)
        filled = round(24 * (batch + 1) / self._steps)
        print(
            f"\repoch {self._epoch + 1}/{self.params['epochs']} [{'=' * filled:24}] "
            f"{(batch + 1) * self._batch_size / spent:.0f} images/s, loss {logs['loss']:.3f}, "
            f"{format_seconds(steps_left * pace)} left  ",
            end="",
            flush=True,
        )

    def on_epoch_end(self, epoch, logs=None):
        spent = time.perf_counter() - self._start
        self._done += self._steps
        self._spent += spent
        left = (self.params["epochs"] - epoch - 1) * self._steps * self._spent / self._done
        validation = (
            f", validation top-1 {100 * logs['val_top1']:.2f} %" if "val_top1" in logs else ""
        )
        print(
            f"{chr(13) if self._terminal else ''}epoch {epoch + 1}/{self.params['epochs']}: loss {logs['loss']:.4f}, "
            f"top-1 {100 * logs['top1']:.2f} %{validation}, {format_seconds(spent)}, {format_seconds(left)} left"
            + " "
            * 8
            * self._terminal,
            flush=True,
        )


def format_seconds(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
