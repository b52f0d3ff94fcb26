"""Batches for ``Model.fit`` on any backend."""

from __future__ import annotations

import keras
import numpy as np

from vitsd.data.dataset import Split
from vitsd.training.augmentation import BatchAugmentation
from vitsd.training.distribution import ALONE, ProcessGroup
from vitsd_runtime.types import AnyArray, Float32Array


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
        class_weights: float32 ``(num_classes,)``; None: all images count alike.
        group: the processes that share each batch.
    """

    def __init__(
        self,
        split: Split,
        num_classes: int,
        batch_size: int,
        seed: int | None = None,
        augment: BatchAugmentation | None = None,
        class_weights: Float32Array | None = None,
        group: ProcessGroup = ALONE,
    ) -> None:
        super().__init__()
        self._split, self._num_classes, self._batch_size = split, num_classes, batch_size
        self._seed, self._augment, self._group = seed, augment, group
        if class_weights is None and len(split) % group.devices:
            class_weights = np.ones(num_classes, np.float32)  # all batches must have some, or none
        self._class_weights = class_weights
        self.epoch = 0
        """Of the batches that are asked for, from 0."""
        self._order: tuple[int, AnyArray] | None = None

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[AnyArray, ...]:
        epoch = self.epoch  # may change while a thread works on this
        chosen = self._chosen(index, epoch)
        own = self._group.share(len(chosen))
        if self._augment is None or self._seed is None:
            images, labels = self._read(chosen[own])
        else:
            # What one image becomes may depend on all others, so every process augments all.
            random = np.random.default_rng((self._seed, epoch, index))
            images, labels = self._augment(*self._read(chosen), random)
            images, labels = images[own], labels[own]
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
        return self._epoch_order(self._seed, epoch)[start:stop]

    def _read(self, chosen: AnyArray) -> tuple[AnyArray, AnyArray]:
        labels = np.eye(self._num_classes, dtype=np.float32)[self._split.labels[chosen]]
        return self._split.images[chosen], labels

    def _epoch_order(self, seed: int, epoch: int) -> AnyArray:
        stored = self._order
        if stored is None or stored[0] != epoch:
            order = np.random.default_rng((seed, epoch)).permutation(len(self._split))
            self._order = stored = (epoch, order)
        return stored[1]


def _fill(rows: AnyArray, size: int) -> AnyArray:
    """``size`` rows, zeros at the end."""
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
