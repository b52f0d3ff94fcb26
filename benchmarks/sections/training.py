"""Images per second of ``vitsd-train``'s loop against bare Keras steps, and of its input alone.

Each installed backend runs in a process of its own. Where the packages of a backend are elsewhere:
``KERAS_BACKEND=torch python -m benchmarks.sections.training [PRESET] [PRECISION]`` prints its rows
as JSON.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.sections import Request, Results
from vitsd.backend import load_keras, on_accelerator
from vitsd.data.dataset import Split
from vitsd.model.vit import build_vit
from vitsd.presets import get_preset
from vitsd.recipe import TrainingRecipe
from vitsd.training import callbacks
from vitsd.training.augmentation import BatchAugmentation, model_augmentation
from vitsd.training.optimizer import compile_model
from vitsd.training.sequence import ImageSequence

BACKENDS = ("tensorflow", "jax", "torch")
ROUNDS = 3
NUM_CLASSES = 100
EPOCH_IMAGES = 45_000
"""Images in a real epoch of CIFAR-100, over which the time of saving is shared out."""


@dataclass(frozen=True)
class Setting:
    """What is trained, and how."""

    preset: str
    precision: str
    batch_size: int

    @property
    def recipe(self) -> TrainingRecipe:
        """The preset's, changed."""
        recipe = get_preset(self.preset).recipe
        return dataclasses.replace(recipe, precision=self.precision, batch_size=self.batch_size)


SETTINGS = (
    Setting("vit-edge", "float32", 128),
    Setting("vit-edge", "mixed_bfloat16", 128),
    Setting("vit-edge", "mixed_bfloat16", 512),
    Setting("vit-small-ds", "float32", 256),
    Setting("vit-small-ds", "mixed_bfloat16", 256),
)


def run(request: Request) -> Results:
    """Measure the input here, and the steps of each backend that is installed."""
    rows = []
    for backend in filter(importlib.util.find_spec, BACKENDS):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.sections.training"],
            env={**os.environ, "KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            check=True,
        )
        rows += json.loads(done.stdout)
    host = input_speeds()
    return {
        "keras": keras.__version__,
        "rows": rows,
        "input_images_per_second": host,
        "summary": [
            *map(_summary, rows),
            *([f"input alone, {kind}, images/s", f"{rate:.0f}", ""] for kind, rate in host.items()),
        ],
    }


def _summary(row: dict[str, Any]) -> list[str]:
    what = "{preset}, {backend}, {precision}, batch {batch_size}: {fit:.0f} images/s".format(**row)
    return [f"{what}, on top of bare steps", f"{100 * row['overhead']:+.1f} %", "at most 5 %"]


def input_speeds() -> dict[str, float]:
    """Images per second that one thread makes ready, by what is done to them."""
    kinds = {
        "as they are": TrainingRecipe(),
        "crops, MixUp or CutMix": get_preset("vit-edge").recipe,
        "crops, RandAugment": TrainingRecipe(crop_padding=4, rand_augment=0.3),
    }
    split, size, batches = _random_images(EPOCH_IMAGES), 128, 50
    speeds = {}
    for name, recipe in kinds.items():
        sequence = ImageSequence(split, NUM_CLASSES, size, 0, BatchAugmentation(recipe))
        seconds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for index in range(batches):
                sequence[index]
            seconds.append(time.perf_counter() - start)
        speeds[name] = batches * size / float(np.median(seconds))
    return speeds


def measure(setting: Setting, folder: Path) -> dict[str, Any]:
    """A row: the setting and its medians, after the loops have run in turns.

    ``overhead`` is what ``vitsd-train`` adds to a bare step, its checkpoints included.
    """
    steps = 200 if on_accelerator() else max(1, 384 // setting.batch_size)
    split = _random_images(setting.batch_size * steps)
    bare, loop = _BareSteps(setting, split), _TrainingLoop(setting, split, folder)
    bare.run(), loop.run(epoch=0)  # compile
    measured = [(bare.run(), loop.run(epoch=i + 1)) for i in range(ROUNDS)]
    saving = float(np.median([loop.save(epoch) for epoch in range(ROUNDS)]))
    bare_speed, loop_speed = (float(np.median(values)) for values in zip(*measured, strict=True))
    overhead = float(np.median([b / w - 1 for b, w in measured]))
    return {
        **dataclasses.asdict(setting),
        "backend": keras.backend.backend(),
        "bare": bare_speed,
        "fit": loop_speed,
        "rounds": measured,
        "checkpoint_seconds": saving,
        "overhead": overhead + saving * bare_speed / EPOCH_IMAGES,
    }


def _random_images(count: int) -> Split:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Split(images, random.integers(0, NUM_CLASSES, count))


def _build(setting: Setting, steps: int, augmentation: Sequence[Any] = ()) -> Any:
    model = build_vit(
        get_preset(setting.preset).config,
        mean=[120.0] * 3,
        variance=[4000.0] * 3,
        augmentation=augmentation,
        dtype=setting.precision,
    )
    compile_model(model, setting.recipe, steps)
    return model


class _OneBatch(keras.utils.PyDataset):
    """The same batch again and again."""

    def __init__(self, batches: ImageSequence) -> None:
        super().__init__()
        self._batch, self._count = batches[0], len(batches)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._batch


class _BareSteps:
    """Keras' training steps on a batch that is ready, without augmentation or callbacks."""

    def __init__(self, setting: Setting, split: Split) -> None:
        self._batch = _OneBatch(ImageSequence(split, NUM_CLASSES, setting.batch_size))
        self._model = _build(setting, len(self._batch))
        self._images = len(split)

    def run(self) -> float:
        """Images per second."""
        start = time.perf_counter()
        self._model.fit(self._batch, verbose=0, shuffle=False)
        return self._images / (time.perf_counter() - start)


class _TrainingLoop:
    """What ``vitsd-train`` does in an epoch."""

    def __init__(self, setting: Setting, split: Split, folder: Path) -> None:
        recipe = setting.recipe
        augment, size = BatchAugmentation(recipe), setting.batch_size
        self._batches = ImageSequence(split, NUM_CLASSES, size, seed=0, augment=augment)
        self._model = _build(setting, len(self._batches), model_augmentation(recipe))
        self._images = len(split)
        self._callbacks = [
            callbacks.Interruptible(),
            callbacks.EpochSeeds(self._batches, 0),
            callbacks.MetricsLog(folder / "metrics.csv", len(split), []),
            callbacks.Progress(len(self._batches), size),
        ]
        # Once per epoch of 45,000 images, so they are timed apart.
        self._savers: list[Any] = [
            callbacks.BestWeights(folder / "best.npz"),
            callbacks.LastCheckpoint(folder / "last.npz"),
        ]

    def run(self, epoch: int) -> float:
        """Images per second of an epoch."""
        start = time.perf_counter()
        self._model.fit(
            self._batches,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
            shuffle=False,
            callbacks=self._callbacks,
        )
        return self._images / (time.perf_counter() - start)

    def save(self, epoch: int) -> float:
        """Seconds that the checkpoints of an epoch take."""
        start = time.perf_counter()
        for saver in self._savers:
            saver.set_model(self._model)
            saver.on_epoch_end(epoch, {})
        return time.perf_counter() - start


if __name__ == "__main__":
    load_keras()
    with tempfile.TemporaryDirectory() as scratch:
        chosen = [s for s in SETTINGS if set(sys.argv[1:]) <= {s.preset, s.precision}]
        print(json.dumps([measure(setting, Path(scratch)) for setting in chosen]))
