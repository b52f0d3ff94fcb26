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
_BESIDE = "(?:set|split|data|dataset|images?|imgs?|photos?|pictures?)"
_NAME = re.compile(f"{_BESIDE}?({'|'.join(_SPLIT_OF)}){_BESIDE}?")


def split_of(name: str) -> str | None:
    """The split that a folder of this name is, in any case: ``Training``, ``test_set``, ``val-2``.

    ``train``, ``val``, ``test``, or None.
    """
    found = _NAME.fullmatch(_letters(name))
    return _SPLIT_OF[found[1]] if found else None


def is_wrapper(name: str, around: str) -> bool:
    """Whether a folder, alone in a split's, is that split once more: ``test_set/test_set``.

    Many archives are packed like that. Also ``train/images``.

    Args:
        name: of the folder.
        around: of the split's.
    """
    same = name.casefold() == around.casefold() or split_of(name) == split_of(around) is not None
    return same or re.fullmatch(_BESIDE, _letters(name)) is not None


def _letters(name: str) -> str:
    return re.sub(r"[\W\d_]+", "", name.casefold())


def split_in(name: str) -> str | None:
    """The split that is one of several words in a name: ``seg_train``; None also if two are."""
    words = re.findall("[a-z]+", name.casefold())
    found = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None
