"""How well a model tells what it knows from what it has never seen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from vitsd.data.memory import check_memory
from vitsd.data.sources import is_folder, load_labeled_images, reading_of
from vitsd.evaluation.metrics import highest_reached
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.images.files import find_images
from vitsd_runtime.images.loading import load_for_model, load_image
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.text import first_few, printable
from vitsd_runtime.types import AnyArray, PathLike, UInt8Array

_log = logging.getLogger(__name__)


def load_strangers(source: PathLike, spec: ModelSpec, limit: int | None = None) -> UInt8Array:
    """Images of things that a model was not trained to tell, brought to its input size.

    Args:
        source: a folder of images, in subfolders or not; or what :func:`vitsd.load_dataset` takes.
        spec: of the model.
        limit: at most this many images (a fixed random choice).

    Returns:
        uint8 ``(n, *input_size)``.

    Raises:
        UsageError: there is no such source, or there are no images in it.
        VitsdError: none of them can be read, or they take more memory than there is.
    """
    if is_folder(str(source)):
        return _read_folder(Path(source), spec, limit)
    loaded = load_labeled_images(source, **reading_of(source, spec))
    if shared := sorted(set(loaded.class_names) & set(spec.class_names)):
        _log.warning(
            "%s: the model was trained to tell %s.", printable(loaded.name), first_few(shared)
        )
    images = loaded.images.sample(limit).images
    return np.stack([load_image(image, spec.input_size, spec.resize_mode) for image in images])


def separation(known: AnyArray, strangers: AnyArray) -> dict[str, float]:
    """How well scores tell known images from strangers.

    Args:
        known: ``(n,)``, a score that is higher for what a model knows; n at least 1.
        strangers: ``(m,)``, the same score; m at least 1.

    Returns:
        ``auroc``: the area under the receiver operating characteristic, which is the probability
        that a known image has a higher score than a stranger (equal ones count half); and
        ``fpr_at_95_coverage``, the false positive rate: see :func:`taken_for_known`.
    """
    ascending = np.sort(strangers)
    below = np.searchsorted(ascending, known, "left")
    not_above = np.searchsorted(ascending, known, "right")
    return {
        "auroc": float((below + not_above).mean() / (2 * len(strangers))),
        "fpr_at_95_coverage": taken_for_known(known, strangers, 0.95),
    }


def taken_for_known(known: AnyArray, strangers: AnyArray, coverage: float) -> float:
    """The fraction of strangers that reach the highest threshold that ``coverage`` of the known do.

    Args:
        known: as for :func:`separation`.
        strangers: as for :func:`separation`.
        coverage: of the known images, in (0, 1].
    """
    return float((strangers >= highest_reached(known, coverage)).mean())


def strangers_report(
    source: PathLike, known: AnyArray, strangers: AnyArray, threshold: float
) -> dict[str, Any]:
    """What a model makes of strangers.

    Args:
        source: where they come from.
        known: ``(n,)``, largest probabilities of images of its classes.
        strangers: ``(m,)``, those of the strangers.
        threshold: of the largest probability.

    Returns:
        JSON-serializable: ``data``, ``images``, ``known`` (the fraction that reaches the
        threshold: false alarms), and what :func:`separation` returns.
    """
    reached = float((strangers >= threshold).mean())
    about = {"data": str(source), "images": len(strangers), "known": reached}
    return {**about, **separation(known, strangers)}


def _read_folder(folder: Path, spec: ModelSpec, limit: int | None) -> UInt8Array:
    files = find_images(folder).files
    if limit is not None and limit < len(files):
        chosen = np.sort(np.random.default_rng(0).permutation(len(files))[:limit])
        files = [files[i] for i in chosen]
    check_memory(printable(folder), len(files) * int(np.prod(spec.input_size)))
    images, unreadable = [], []
    for path in files:
        try:
            images.append(load_for_model(path, spec))
        except VitsdError as error:
            unreadable.append(str(error))
    if unreadable:
        _log.warning(
            "%d of %d images in %s were skipped: %s",
            len(unreadable),
            len(files),
            printable(folder),
            first_few(unreadable, limit=200),
        )
    if not images:
        raise VitsdError(f"{printable(folder)} has no readable images.")
    return np.stack(images)
