"""Which images are held out, where a source does not say so itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vitsd.data.identity import Identities, uniform_draws
from vitsd_runtime.types import AnyArray

_SEED = 0
_Mask = npt.NDArray[np.bool_]


def cut_by_content(
    labels: AnyArray, identities: Identities, fraction: float, purpose: str
) -> _Mask:
    """Hold out about ``fraction`` of the images; an image's own content decides.

    So images that are added or removed move no other, and equal images stay together. A class of
    two or more different images is on both sides: where the draws leave one side empty, the image
    with the smallest draw is held out, or the one with the largest is not.

    Args:
        labels: ``(n,)``, the images' classes.
        identities: ``(n,)``, of the images.
        fraction: of the images.
        purpose: cuts for different purposes are independent.

    Returns:
        bool ``(n,)``, True for what is held out.
    """
    draws = uniform_draws(identities, purpose)
    held_out = draws < fraction
    for members in _by_class(labels):
        own = draws[members]
        if not held_out[members].any():
            held_out[members] = own == own.min()
        if held_out[members].all():
            held_out[members] = own != own.max()
    return held_out


def cut_by_position(labels: AnyArray, fraction: float) -> _Mask:
    """Hold out ``fraction`` of the images of every class; their order and number decide.

    One image more and most others move, so this is only for sources that never change, and to find
    again what models held out that were trained before there was :func:`cut_by_content`.

    Args:
        labels: ``(n,)``, the images' classes.
        fraction: of the images.

    Returns:
        bool ``(n,)``, True for what is held out.
    """
    random = np.random.default_rng(_SEED)
    held_out = np.zeros(len(labels), bool)
    for members in _by_class(labels):
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out[random.permutation(members)[:count]] = True
    return held_out


def _by_class(labels: AnyArray) -> Iterator[AnyArray]:
    """Indices of the images of each class that has any, ascending."""
    order = np.argsort(labels, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
