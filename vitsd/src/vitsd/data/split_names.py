"""What folders of splits are called."""

from __future__ import annotations

import re

_WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "validate", "dev", "development"),
    "test": ("test", "testing", "tst", "holdout", "heldout", "eval", "evaluation"),
}
"""In the examples of Keras and PyTorch, by Ultralytics and Roboflow (valid), and by Hugging Face's
``imagefolder`` (dev, eval)."""
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_BESIDE = "(?:set|split|data|dataset|images?|imgs?|photos?|pictures?)?"
_NAME = re.compile(f"{_BESIDE}({'|'.join(_SPLIT_OF)}){_BESIDE}")


def split_of(name: str) -> str | None:
    """The split that a folder of this name is, in any case: ``Training``, ``test_set``, ``val-2``.

    ``train``, ``val``, ``test``, or None.
    """
    found = _NAME.fullmatch(re.sub(r"[\W\d_]+", "", name.casefold()))
    return _SPLIT_OF[found[1]] if found else None


def split_in(name: str) -> str | None:
    """The split that is one of several words in a name: ``seg_train``; None also if two are."""
    words = re.findall("[a-z]+", name.casefold())
    found = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None
