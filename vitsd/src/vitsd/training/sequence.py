"""Batches for ``Model.fit`` on any backend."""

from __future__ import annotations

import keras
import numpy as np

from vitsd.data.dataset import Split
from vitsd.training.augmentation import BatchAugmentation
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

    Args:
        split: the images.
        num_classes: length of the one-hot labels.
        batch_size: images in a batch; the last one may be smaller.
        seed: of the order and the augmentation; None: in order, unchanged.
        augment: what is done to each batch.
        class_weights: float32 ``(num_classes,)``; None: all images count alike.
    """

    def __init__(
        self,
        split: Split,
        num_classes: int,
        batch_size: int,
        seed: int | None = None,
        augment: BatchAugmentation | None = None,
        class_weights: Float32Array | None = None,
    ) -> None:
        super().__init__()
        self._split, self._num_classes, self._batch_size = split, num_classes, batch_size
        self._seed, self._augment, self._class_weights = seed, augment, class_weights
        self.epoch = 0
        """Of the batches that are asked for, from 0."""
        self._order: tuple[int, AnyArray] | None = None

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[AnyArray, ...]:
        start = index * self._batch_size
        chosen: slice | AnyArray = slice(start, start + self._batch_size)
        epoch = self.epoch  # may change while a thread works on this
        if self._seed is not None:
            chosen = self._epoch_order(self._seed, epoch)[chosen]
        images: AnyArray = self._split.images[chosen]
        labels = np.eye(self._num_classes, dtype=np.float32)[self._split.labels[chosen]]
        if self._augment is not None and self._seed is not None:
            random = np.random.default_rng((self._seed, epoch, index))
            images, labels = self._augment(images, labels, random)
        if self._class_weights is None:
            return images, labels
        return images, labels, labels @ self._class_weights

    def _epoch_order(self, seed: int, epoch: int) -> AnyArray:
        stored = self._order
        if stored is None or stored[0] != epoch:
            order = np.random.default_rng((seed, epoch)).permutation(len(self._split))
            self._order = stored = (epoch, order)
        return stored[1]
