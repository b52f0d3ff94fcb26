"""From a model's file to classifiers that are warm, and verified on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.serving.settings import Settings
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Backend
from vitsd_runtime.verification import verify


def load_classifiers(path: Path, settings: Settings) -> tuple[list[Classifier], bool]:
    """Load a model once for each thread that is to answer, and verify it.

    Returns:
        The classifiers, and whether the model carries golden images, with which it was verified.

    Raises:
        UsageError: there is no such file, or it is no exported model.
        VitsdError: it can't be loaded, or does not answer as on the machine that exported it.
    """

    def load(num_threads: int | None) -> Classifier:
        return Classifier.load(
            path,
            num_threads=num_threads,
            backend=cast("Backend | None", settings.backend),
            batch_size=settings.batch_size,
            min_confidence=settings.min_confidence,
            verify=settings.verify,
            allow_any_operation=settings.allow_any_operation,
            in_memory=True,  # whoever replaces the file may well write into it
        )

    first = load(settings.num_threads)
    count = settings.workers or max(1, usable_cores() // first.num_threads)
    classifiers = [first, *(load(first.num_threads) for _ in range(count - 1))]
    for classifier in classifiers:
        _warm_up(classifier)
    return classifiers, _verify(first)


def _warm_up(classifier: Classifier) -> None:
    """Have the engine prepare for one image and for a batch, so that no request waits for it."""
    for count in {1, classifier.batch_size}:
        pixels = np.zeros((count, *classifier.spec.input_size), np.uint8)
        classifier.forward(classifier.prepare(pixels))


def _verify(classifier: Classifier) -> bool:
    """Whether the model could be verified.

    Raises:
        VitsdError: it was, and answers otherwise than on the machine that exported it.
    """
    if classifier.spec.golden is None:
        return False
    problem = verify(classifier).problem
    if problem is not None:
        raise VitsdError(
            f"{printable(classifier.path)} does not answer here as on the machine that exported "
            f"it; {problem}"
        )
    return True
