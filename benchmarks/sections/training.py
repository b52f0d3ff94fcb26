"""Images per second of ``vitsd-train``'s loop against a bare Keras step.

``vit-small-ds``, batch 256, float32.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.sections import Request, Results
from vitsd.data.dataset import Split
from vitsd.model.vit import build_vit
from vitsd.presets import Preset, get_preset
from vitsd.training import callbacks
from vitsd.training.augmentation import BatchAugmentation, model_augmentation
from vitsd.training.optimizer import compile_model
from vitsd.training.sequence import ImageSequence

STEPS = 4
"""Of an epoch."""
ROUNDS = 4
SAVES = 3
EPOCH_IMAGES = 45_000
"""Images in a real epoch of CIFAR-100, over which the time of saving is shared out."""
NUM_CLASSES = 100


def run(request: Request) -> Results:
    """Measure bare steps and the whole loop in turns."""
    preset = get_preset("vit-small-ds")
    split = _random_images(preset.recipe.batch_size * STEPS)
    bare, loop = _BareSteps(preset, split), _TrainingLoop(preset, split, request.scratch)
    bare.run(), loop.run(epoch=0)  # compile
    measured = [(bare.run(), loop.run(epoch=i + 1)) for i in range(ROUNDS)]
    saving = [loop.save(epoch) for epoch in range(SAVES)]
    bare_speed, loop_speed = (float(np.median(values)) for values in zip(*measured, strict=True))
    saving_share = float(np.median(saving)) / (EPOCH_IMAGES / bare_speed)
    overhead = float(np.median([b / w - 1 for b, w in measured])) + saving_share
    return {
        "keras": keras.__version__,
        "bare_images_per_second": [b for b, _ in measured],
        "fit_images_per_second": [w for _, w in measured],
        "checkpoint_seconds": saving,
        "overhead": overhead,
        "summary": [
            ["bare Keras step, images/s", f"{bare_speed:.1f}", ""],
            ["vitsd-train's loop with augmentation, images/s", f"{loop_speed:.1f}", ""],
            [
                "input pipeline, augmentation, callbacks and checkpoints on top",
                f"{100 * overhead:+.1f} %",
                "at most 5 %",
            ],
        ],
    }


def _random_images(count: int) -> Split:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Split(images, random.integers(0, NUM_CLASSES, count))


def _build(preset: Preset, augmentation: Sequence[Any] = ()) -> Any:
    model = build_vit(
        preset.config, mean=[120.0] * 3, variance=[4000.0] * 3, augmentation=augmentation
    )
    compile_model(model, preset.recipe, STEPS)
    return model


class _BareSteps:
    """Keras' training step on one batch, again and again."""

    def __init__(self, preset: Preset, split: Split) -> None:
        self._model = _build(preset)
        self._batch = ImageSequence(split, NUM_CLASSES, preset.recipe.batch_size)[0]
        self._images = len(split)

    def run(self) -> float:
        """Images per second."""
        start = time.perf_counter()
        for _ in range(STEPS):
            self._model.train_on_batch(*self._batch)
        return self._images / (time.perf_counter() - start)


class _TrainingLoop:
    """What ``vitsd-train`` does in an epoch."""

    def __init__(self, preset: Preset, split: Split, folder: Path) -> None:
        recipe = preset.recipe
        self._model = _build(preset, model_augmentation(recipe))
        augment = BatchAugmentation(recipe)
        size = recipe.batch_size
        self._batches = ImageSequence(split, NUM_CLASSES, size, seed=0, augment=augment)
        self._history: list[Any] = []
        self._callbacks = [
            callbacks.EpochSeeds(self._batches, 0),
            callbacks.MetricsLog(folder / "metrics.csv", len(split), self._history),
            callbacks.Progress(STEPS, size),
        ]
        # Once per epoch of 45,000 images, so they are timed apart.
        self._savers: list[Any] = [
            callbacks.BestWeights(folder / "best.npz"),
            callbacks.LastCheckpoint(folder / "last.npz"),
        ]

    def run(self, epoch: int) -> float:
        """Images per second of an epoch."""
        self._model.fit(
            self._batches,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
            shuffle=False,
            callbacks=self._callbacks,
        )
        speed: float = self._history[-1]["images_per_second"]
        return speed

    def save(self, epoch: int) -> float:
        """Seconds that the checkpoints of an epoch take."""
        start = time.perf_counter()
        for saver in self._savers:
            saver.set_model(self._model)
            saver.on_epoch_end(epoch, {})
        return time.perf_counter() - start
