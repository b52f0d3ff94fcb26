"""From images to rows of the result."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitsd_runtime.batch.storage import locate
from vitsd_runtime.classifier import DEFAULT_TOP_K, Classifier, answer_dict
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.images.loading import load_for_model
from vitsd_runtime.images.reading import is_url
from vitsd_runtime.images.tta import Tta, make_views
from vitsd_runtime.types import ResizeMode

Row = dict[str, Any]
"""``path``, ``label``, ``probability``, ``known``, ``top_k`` (a list of ``label``, ``index``,
``probability``), ``error``, ``model_sha256``: what is not known is None."""


@dataclass(frozen=True)
class Options:
    """How images are answered, as for :meth:`Classifier.predict`."""

    top_k: int = DEFAULT_TOP_K
    tta: Tta = None
    resize_mode: ResizeMode | None = None


def answer_rows(
    classifier: Classifier, images: Iterable[tuple[str, Any]], options: Options | None = None
) -> Iterator[Row]:
    """A row for each image, in order; for one that can't be read, a row that says why.

    Args:
        classifier: answers ``batch_size`` images at once.
        images: name and image, as for :meth:`Classifier.predict`; or the error that it is.
        options: see there.

    Raises:
        VitsdError: the model fails.
    """
    options = options or Options()
    views = make_views(options.tta, classifier.spec)
    remaining = iter(images)
    while some := list(itertools.islice(remaining, classifier.batch_size)):
        loaded = [_load(image, classifier, options) for _, image in some]
        pixels = [image for image in loaded if isinstance(image, np.ndarray)]
        answers = iter(classifier.probabilities(np.stack(pixels), views) if pixels else ())
        for (name, _), image in zip(some, loaded):
            if isinstance(image, str):
                yield error_row(name, image, classifier)
                continue
            answer = answer_dict(classifier.top(next(answers), options.top_k))
            best = answer["predictions"][0]
            yield {
                "path": as_text(name),
                "label": as_text(best["label"]),
                "probability": best["probability"],
                "known": answer["known"],
                "top_k": [{**p, "label": as_text(p["label"])} for p in answer["predictions"]],
                "error": None,
                "model_sha256": classifier.sha256,
            }


def error_row(name: str, error: str, classifier: Classifier) -> Row:
    """The row of an image that has no answer."""
    return {
        "path": as_text(name),
        **dict.fromkeys(("label", "probability", "known", "top_k")),
        "error": as_text(error),
        "model_sha256": classifier.sha256,
    }


def as_text(name: str) -> str:
    r"""Valid UTF-8, which a table needs: what is none in a file's name becomes ``\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _load(image: Any, classifier: Classifier, options: Options) -> Any:
    """uint8 pixels, or why there are none."""
    try:
        if isinstance(image, VitsdError):
            raise image
        if isinstance(image, str) and is_url(image):
            image = locate(image).path
        return load_for_model(image, classifier.spec, options.resize_mode)
    except VitsdError as error:
        return str(error)
