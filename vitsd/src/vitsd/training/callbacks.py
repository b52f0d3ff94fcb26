"""What happens around the training steps: seeds, metrics.csv, checkpoints, progress."""

from __future__ import annotations

import io
import logging
import math
import time
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from vitsd.training.history import COLUMNS, Row, write_history
from vitsd.training.sequence import ImageSequence
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats.archive import ZIP_ERRORS
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.system.signals import check_interrupted
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import AnyArray

_log = logging.getLogger(__name__)
_SCORES = ("val_balanced_accuracy", "val_top1", "epoch")
"""What the best epoch has most of: the first that is measured."""
_PAUSE = 20
"""Between two checkpoints, in units of the time that one takes."""
NO_SCORE = -1.0
"""Lower than that of any epoch."""
Logs = dict[str, Any] | None
"""Metrics by name, as Keras hands them to callbacks."""


class Interruptible(keras.callbacks.Callback):
    """Stop after the steps in which Ctrl-C was pressed, even if native code swallowed it."""

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Between training steps."""
        check_interrupted()

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Between validation steps."""
        check_interrupted()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """After validation."""
        check_interrupted()


class EpochSeeds(keras.callbacks.Callback):
    """Make every epoch's randomness a function of the seed and the epoch's number.

    So a resumed run draws what an uninterrupted one would have drawn.
    """

    def __init__(self, sequence: ImageSequence, seed: int) -> None:
        super().__init__()
        self._sequence, self._seed = sequence, seed

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Set the epoch of the batches, and the seeds of the model's random layers."""
        self._sequence.epoch = epoch
        states = [v for v in self.model.variables if v.name == "seed_generator_state"]
        # Far apart: a generator counts up from its state, and must not reach another's.
        random = np.random.default_rng((self._seed, epoch))
        for state in states:
            state.assign(random.integers(0, 2**30, 2))


class MetricsLog(keras.callbacks.Callback):
    """Add a row to ``history`` after every epoch, and write ``metrics.csv`` anew.

    Args:
        path: of the file; None: nothing is written.
        images_per_epoch: training images.
        history: rows of earlier epochs; it grows.
    """

    def __init__(self, path: Path | None, images_per_epoch: int, history: list[Row]) -> None:
        super().__init__()
        self._path, self._images, self._history = path, images_per_epoch, history
        self._start = 0.0
        self._trained: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Start the clock."""
        self._start, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs: Logs = None) -> None:
        """Stop the clock: validation does not count."""
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Write the row.

        Raises:
            VitsdError: the loss is not finite.
        """
        logs = logs or {}
        seconds = (self._trained or time.perf_counter()) - self._start
        loss = float(logs["loss"])
        row: Row = {
            "epoch": epoch + 1,
            "step": int(self.model.optimizer.iterations),
            "learning_rate": float(self.model.optimizer.learning_rate),
            **{name: float(logs[name]) for name in COLUMNS if name in logs},
            "seconds": round(seconds, 3),
            "images_per_second": round(self._images / seconds, 2),
        }
        self._history.append(row)
        if self._path is not None:
            write_history(self._path, self._history)
        if not math.isfinite(loss):
            raise VitsdError(
                f"The loss became {loss} in epoch {epoch + 1}. Try a lower `learning_rate`, "
                "`global_clipnorm=1`, or `precision=float32`."
            )


class LastCheckpoint(keras.callbacks.Callback):
    """Save weights and optimizer state after an epoch, for resuming.

    After every epoch, unless epochs are so short that this would take a twentieth of the time.

    Not by Keras' ``save_weights``: when the disk is full, HDF5 fails once more for every object in
    its memory, and crashes the process.

    Args:
        path: of an ``.npz`` file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._due = 0.0
        self._is_saved = True

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Replace the checkpoint, if it is due."""
        self._is_saved = time.perf_counter() >= self._due
        if self._is_saved:
            self._save()

    def on_train_end(self, logs: Logs = None) -> None:
        """Replace the checkpoint, if it is not of the last epoch."""
        if not self._is_saved:
            self._save()

    def _save(self) -> None:
        start = time.perf_counter()
        _write_arrays(self._path, *map(keras.ops.convert_to_numpy, _state(self.model)))
        end = time.perf_counter()
        self._due = end + _PAUSE * (end - start)


def read_checkpoint(path: Path) -> bytes:
    """The content of what :class:`LastCheckpoint` saved.

    Raises:
        VitsdError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def restore_checkpoint(content: bytes, path: Path, model: keras.Model) -> None:
    """Give a compiled model the weights and optimizer state that :class:`LastCheckpoint` saved.

    Args:
        content: of the file.
        path: of the file, for messages.
        model: its weights and those of its optimizer are assigned.

    Raises:
        VitsdError: the file is damaged, or of another model.
    """
    state = _state(model)
    try:
        stored = _read_arrays(content)
        arrays = [stored[f"arr_{i}"] for i in range(len(stored))]
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in state]:
            raise ValueError("it is of another model")
    except _DAMAGED as error:
        raise _unreadable(path, error) from error
    for variable, array in zip(state, arrays, strict=True):
        variable.assign(array)


def _unreadable(path: Path, error: Exception) -> VitsdError:
    return VitsdError(
        f"The checkpoint {printable(path)} can't be read ({first_line(error)}); delete the run "
        "and start anew."
    )


def _state(model: keras.Model) -> list[keras.Variable]:
    """All that training changes, in an order that depends on the model alone."""
    return [*model.variables, *model.optimizer.variables]


def _write_arrays(path: Path, *arrays: AnyArray, **named: float) -> None:
    """Write an ``.npz`` file, whole or not at all."""
    # In memory: a zip archive that can't be written complains once more when it is dropped.
    content = io.BytesIO()
    np.savez(content, *arrays, **named)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _read_arrays(content: bytes) -> dict[str, AnyArray]:
    """What :func:`_write_arrays` wrote; raises one of :data:`_DAMAGED` for anything else."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > len(content):
            raise ValueError("its arrays are packed")  # maybe to gigabytes
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


_DAMAGED = (
    *ZIP_ERRORS,
    *(AttributeError, MemoryError, SyntaxError, TypeError, tokenize.TokenError),
)
"""What zipfile and NumPy raise for damaged files, and for those that hold something else."""


class BestWeights(keras.callbacks.Callback):
    """Keep the weights of the epoch with the best validation top-1 (without validation: the last).

    With balanced class weights it is the balanced one that counts.

    Keras' ``ModelCheckpoint`` does not replace it: that overwrites the file in place, forgets
    epoch and score, keeps the earlier of two equal epochs, and with ``SwapEMAWeights`` swapping on
    epochs the checkpoint for resuming would hold averages instead of weights.

    Args:
        path: of an ``.npz`` file with the weights, the epoch and its score; None: nothing is
            written.
        swap: Keras' callback that swaps in the moving average of the weights, if the average is
            what is evaluated and kept.
        best: the best score so far.
    """

    def __init__(
        self,
        path: Path | None,
        swap: keras.callbacks.SwapEMAWeights | None = None,
        best: float = NO_SCORE,
    ) -> None:
        super().__init__()
        self._path, self._swap, self._best = path, swap, best

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Save the weights, if no epoch was better."""
        measured = {"epoch": epoch, **(logs or {})}
        score = float(next(measured[name] for name in _SCORES if name in measured))
        if score < self._best:
            return
        self._best = score
        if self._swap is not None:
            self._swap.on_test_begin()
        if self._path is not None:
            _write_arrays(self._path, *self.model.get_weights(), epoch=epoch + 1, score=score)
        if self._swap is not None:
            self._swap.on_test_end()


def read_best(path: Path) -> tuple[int, float, list[AnyArray]]:
    """Epoch (from 1), score and weights that :class:`BestWeights` kept.

    Raises:
        VitsdError: the file is damaged or missing.
    """
    try:
        stored = _read_arrays(path.read_bytes())
        weights = [stored[f"arr_{i}"] for i in range(len(stored) - 2)]
        return int(stored["epoch"]), float(stored["score"]), weights
    except _DAMAGED as error:
        raise VitsdError(
            f"{printable(path)} is damaged or missing ({first_line(error)}); delete the run and "
            "start anew."
        ) from error


class Progress(keras.callbacks.Callback):
    """Log one line per epoch; on a terminal, also show a bar with the time left in the whole run.

    Args:
        steps: batches per epoch.
        batch_size: images per batch.
    """

    def __init__(self, steps: int, batch_size: int) -> None:
        super().__init__()
        self._steps, self._batch_size = steps, batch_size
        self._bar: tqdm[Any] | None = None
        self._start = 0.0
        self._epochs_done, self._seconds = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Start the clock, and before the first epoch the bar."""
        self._start = time.perf_counter()
        if self._bar is None:
            images = (self._epochs - epoch) * self._steps * self._batch_size
            # The first step compiles, so the mean over all steps tells more than the latest ones.
            self._bar = tqdm(total=images, unit=" images", leave=False, disable=None, smoothing=0)
        self._bar.set_description(f"epoch {epoch + 1}/{self._epochs}")

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Move the bar."""
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix(loss=f"{(logs or {})['loss']:.3f}", refresh=False)
            # A chunk of several steps may end after the epoch's last one.
            steps = self._epochs_done * self._steps + min(batch + 1, self._steps)
            self._bar.update(steps * self._batch_size - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Log the epoch's line."""
        logs = logs or {}
        seconds = time.perf_counter() - self._start
        self._epochs_done += 1
        self._seconds += seconds
        left = (self._epochs - epoch - 1) * self._seconds / self._epochs_done
        parts = [f"loss {logs['loss']:.4f}", f"top-1 {100 * logs['top1']:.2f} %"]
        if "val_top1" in logs:
            parts.append(f"validation top-1 {100 * logs['val_top1']:.2f} %")
        if "val_balanced_accuracy" in logs:
            parts.append(f"balanced {100 * logs['val_balanced_accuracy']:.2f} %")
        parts += [format_seconds(seconds), f"{format_seconds(left)} left"]
        if self._bar is not None:
            self._bar.clear()
        _log.info("epoch %d/%d: %s", epoch + 1, self._epochs, ", ".join(parts))

    def on_train_end(self, logs: Logs = None) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    @property
    def _epochs(self) -> int:
        epochs: int = self.params["epochs"]
        return epochs


def format_seconds(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
