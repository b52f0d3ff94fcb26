"""Test-time augmentation: the views of an image whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Union

import numpy as np

from vitsd_runtime.errors import UsageError
from vitsd_runtime.images.augmentation import Augmenter
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import AnyArray

Tta = Union[str, int, None]
"""``"flip"``, a number of views from 1, or None."""
Views = Callable[[AnyArray], Iterable[AnyArray]]
"""From a prepared batch to the batches whose probabilities are averaged."""


def make_views(tta: Tta, spec: ModelSpec) -> Views:
    """The function that makes the views.

    Raises:
        UsageError: no such way, or the model can't be given such views.
    """
    if tta is None:
        return _unchanged
    if tta == "flip":
        return _flip
    if not isinstance(tta, int) or isinstance(tta, bool) or tta < 1:
        raise UsageError(f'tta must be "flip" or a number of views from 1; got {tta!r}.')
    if tta == 1:
        return _unchanged
    if spec.preprocessing_embedded:
        raise UsageError(
            "The model normalizes and resizes by itself, so random views can't be made as in "
            "training: use the view flip, or export without `embed_preprocessing`."
        )
    return _random_views(tta, spec)


def _unchanged(batch: AnyArray) -> Iterable[AnyArray]:
    return [batch]


def _flip(batch: AnyArray) -> Iterable[AnyArray]:
    return [batch, np.ascontiguousarray(batch[:, :, ::-1])]


def _random_views(count: int, spec: ModelSpec) -> Views:
    # The same parameters for every image: an answer does not depend on its place in the batch.
    augmenter = Augmenter.from_spec(spec)
    params = [Augmenter.from_spec(spec, seed=view).draw(1) for view in range(1, count)]

    def views(batch: AnyArray) -> Iterable[AnyArray]:
        yield batch
        for chosen in params:
            yield augmenter.apply(batch, chosen.repeat(len(batch)))

    return views
