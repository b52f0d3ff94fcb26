"""Batches for ``Model.fit`` on any backend."""

from __future__ import annotations

import keras
import numpy as np

from vitsd.data.dataset import Split
from vitsd.training.augmentation import BatchAugmentation


class Batches(keras.utils.PyDataset):
    """uint8 images and one-hot float32 labels, shuffled anew each epoch if a seed is given.

    What a batch holds depends only on the seed, ``epoch`` (set before each epoch) and its index.
    """

    def __init__(
        self,
        split: Split,
        num_classes: int,
        batch_size: int,
        seed=None,
        augment: BatchAugmentation | None = None,
    ):
        super().__init__()
        self._split, self._num_classes, self._batch_size = split, num_classes, batch_size
        self._seed, self._augment = seed, augment
        self.epoch = 0
        self._order = (None, None)

    def __len__(self):
        return -(-len(self._split) // self._batch_size)

    def __getitem__(self, index):
        start = index * self._batch_size
        chosen = slice(start, start + self._batch_size)
        if self._seed is not None:
            chosen = self._epoch_order()[chosen]
        images = self._split.images[chosen]
        labels = np.eye(self._num_classes, dtype=np.float32)[self._split.labels[chosen]]
        if self._augment is not None and self._augment.active:
            images, labels = self._augment(
                images, labels, np.random.default_rng((self._seed, self.epoch, index))
            )
        return images, labels

    def _epoch_order(self):
        epoch, order = self._order
        if epoch != self.epoch:
            order = np.random.default_rng((self._seed, self.epoch)).permutation(len(self._split))
            self._order = (self.epoch, order)
        return order
