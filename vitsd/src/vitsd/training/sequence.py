"""Batches for ``Model.fit`` on any backend."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import keras
import numpy as np

from vitsd.backend import on_accelerator
from vitsd.data.dataset import Split
from vitsd.training.augmentation import BatchAugmentation, augmented
from vitsd.training.distribution import ALONE, ProcessGroup
from vitsd.training.teacher import Teacher
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.types import AnyArray, Float32Array, UInt8Array

_MOST_WORKERS = 12
Batch = tuple[AnyArray, ...]
"""Images, labels, and weights if images have some."""


def workers() -> int:
    """Processes that augment the batches for an accelerator; none where Keras uses the CPU."""
    return min(usable_cores(), _MOST_WORKERS) if on_accelerator() else 0


class ImageSequence(keras.utils.PyDataset):
    """Images and one-hot labels in batches, shuffled anew each epoch if a seed is given.

    With class weights each image gets one too: the sum of its labels' weights times their shares,
    so an image that MixUp or CutMix made of two classes counts as much as its parts. (Keras'
    ``class_weight`` would take the weight of the larger part.)

    What a batch holds depends only on the seed, :attr:`epoch` and its index, so that a resumed run
    sees what an uninterrupted one would have seen. Keras' own hooks can't count epochs: how often
    ``PyDataset.on_epoch_begin`` is called before the first one differs between its backends. So
    :class:`vitsd.training.callbacks.EpochSeeds` sets the epoch, and nothing else does.

    Of several processes, each gets its share of the same batches. A batch that can't be divided
    evenly is filled up with rows that have no label and the weight 0, and its other weights grow so
    that its loss is still the mean over the images.

    Args:
        split: the images.
        num_classes: length of the one-hot labels.
        batch_size: images in a batch; the last one may be smaller.
        seed: of the order and the augmentation; None: in order, unchanged.
        augment: what is done to each batch.
        teacher: it has the last word on the labels: it sees the augmented images.
        class_weights: float32 ``(num_classes,)``; None: all images count alike.
        group: the processes that share each batch.
        workers: processes that augment the next batches meanwhile, for an accelerator, which would
            wait for this one; :meth:`close` ends them. Then the last batch is filled up with the
            first images of the epoch: for each size of a batch, the compiler takes a minute. 0:
            each batch is made when it is asked for.
    """

    def __init__(  # noqa: PLR0913 - most have a default
        self,
        split: Split,
        num_classes: int,
        batch_size: int,
        seed: int | None = None,
        augment: BatchAugmentation | None = None,
        teacher: Teacher | None = None,
        class_weights: Float32Array | None = None,
        group: ProcessGroup = ALONE,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self._split, self._num_classes, self._batch_size = split, num_classes, batch_size
        self._seed, self._augment, self._group = seed, augment, group
        self._teacher, self._ahead = teacher, _Ahead(workers) if workers else None
        if class_weights is None and len(split) % group.devices:
            class_weights = np.ones(num_classes, np.float32)  # all batches must have some, or none
        self._class_weights = class_weights
        self.epoch = 0
        """Of the batches that are asked for, from 0."""
        self._order: tuple[int, AnyArray] | None = None

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        epoch = self.epoch
        if self._ahead is None:
            return self._batch(epoch, index)
        return self._ahead.batch(self._batch, epoch, index, len(self))

    def close(self) -> None:
        """End the processes that augment."""
        if self._ahead is not None:
            self._ahead.close()

    def _batch(self, epoch: int, index: int) -> Batch:
        chosen = self._chosen(index, epoch)
        own = self._group.share(len(chosen))
        if self._augment is None or self._augment.changes_nothing or self._seed is None:
            images, labels = self._read(chosen[own])
        else:
            # What one image becomes may depend on all others, so every process augments all.
            seed = (self._seed, epoch, index)
            augment = augmented if self._ahead is None else self._ahead.augmented
            images, labels = augment(self._augment, *self._read(chosen), seed)
            images, labels = images[own], labels[own]
        if self._teacher is not None:
            labels = self._teacher.labels(images, labels)
        if self._class_weights is None:
            return images, labels
        weights = labels @ self._class_weights
        padded = self._group.padded(len(chosen))
        if padded > len(chosen):
            size = own.stop - own.start
            weights *= padded / len(chosen)
            images, labels, weights = (_fill(part, size) for part in (images, labels, weights))
        return images, labels, weights

    def _chosen(self, index: int, epoch: int) -> AnyArray:
        """Indices of a batch's images."""
        start = index * self._batch_size
        stop = min(start + self._batch_size, len(self._split))
        if self._seed is None:
            return np.arange(start, stop)
        order = self._epoch_order(self._seed, epoch)
        if self._ahead is not None:
            return np.take(order, np.arange(start, start + self._batch_size), mode="wrap")
        return order[start:stop]

    def _read(self, chosen: AnyArray) -> tuple[AnyArray, AnyArray]:
        labels = np.eye(self._num_classes, dtype=np.float32)[self._split.labels[chosen]]
        return self._split.images[chosen], labels

    def _epoch_order(self, seed: int, epoch: int) -> AnyArray:
        stored = self._order
        if stored is None or stored[0] != epoch:
            order = np.random.default_rng((seed, epoch)).permutation(len(self._split))
            self._order = stored = (epoch, order)
        return stored[1]


class _Ahead:
    """Makes the batches that come next: processes augment them, threads do the rest.

    NumPy and Pillow hold Python's lock for much of an augmentation, so threads alone don't help.
    """

    def __init__(self, workers: int) -> None:
        # Not forked: a copy of a process that computes on a GPU may never return from a lock.
        # Ctrl-C reaches them too, but the training ends them.
        self._processes = ProcessPoolExecutor(
            workers,
            get_context("spawn"),
            initializer=signal.signal,
            initargs=(signal.SIGINT, signal.SIG_IGN),
        )
        self._threads = ThreadPoolExecutor(workers)
        self._count = 2 * workers
        self._batches: dict[tuple[int, int], Future[Batch]] = {}

    def batch(
        self, make: Callable[[int, int], Batch], epoch: int, index: int, per_epoch: int
    ) -> Batch:
        """A batch; those after it, also of the next epoch, are begun."""
        first = epoch * per_epoch + index
        for number in range(first, first + self._count):
            key = divmod(number, per_epoch)
            if key not in self._batches:
                self._batches[key] = self._threads.submit(make, *key)
        return self._batches.pop((epoch, index)).result()

    def augmented(self, *arguments: Any) -> tuple[UInt8Array, Float32Array]:
        """What :func:`augmented` returns, from another process."""
        try:
            return self._processes.submit(augmented, *arguments).result()
        except BrokenProcessPool as error:
            raise VitsdError(
                "The processes that augment images ended. In a script, training must stand under "
                '`if __name__ == "__main__":`, since each of them imports the script.'
            ) from error

    def close(self) -> None:
        """Drop what nobody will ask for."""
        self._threads.shutdown(cancel_futures=True)
        self._processes.shutdown(cancel_futures=True)


def _fill(rows: AnyArray, size: int) -> AnyArray:
    """``size`` rows, zeros at the end."""
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
