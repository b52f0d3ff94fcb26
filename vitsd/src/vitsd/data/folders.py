"""Datasets in folders: a folder of images for each class."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vitsd.data.dataset import Dataset, Split, first_few, hold_out
from vitsd.data.memory import check_memory
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.loading import is_image_file, load_image
from vitsd_runtime.types import ResizeMode

_TEST_FRACTION = 0.2
_NAMED = 10
"""Unreadable images that a warning names."""
_log = logging.getLogger(__name__)


def load_folder(root: Path, input_size: tuple[int, int], resize_mode: ResizeMode) -> Dataset:
    """Read ``train/CLASS/*.png`` with optional ``val/`` and ``test/``, or just ``CLASS/*.png``.

    Images are RGB. Without a ``test`` folder a fifth of the training images is held out.

    Args:
        root: the folder.
        input_size: height and width that images are brought to.
        resize_mode: how.

    Raises:
        UsageError: there are no class folders, or the splits have different classes.
        VitsdError: no image of a class is readable, or memory is too small.
    """
    reader = _Reader(_split_folders(root), (*input_size, 3), resize_mode)
    splits = {name: reader.read(folder) for name, folder in reader.folders.items()}
    if "test" not in splits:
        splits["train"], splits["test"] = hold_out(splits["train"], _TEST_FRACTION)
    name = root.resolve().name
    return Dataset(
        name, reader.class_names, splits["train"], splits["test"], splits.get("val"), resize_mode
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; ``root`` itself where it holds the classes."""
    folders = {name: root / name for name in ("train", "val", "test")}
    there = {name: folder for name, folder in folders.items() if folder.is_dir()}
    if "train" in there:
        return there
    if len(there) == 2:
        raise UsageError(f"{root} has test/ and val/ but no train/ folder.")
    return {"train": root}


def _class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the classes of a split, sorted."""
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return tuple(sorted(name for name in names if not name.startswith(".")))


class _Reader:
    """Reads splits that all have the classes of the training split."""

    def __init__(
        self,
        folders: dict[str, Path],
        input_size: tuple[int, int, int],
        resize_mode: ResizeMode,
    ) -> None:
        self.folders, self._input_size, self._resize_mode = folders, input_size, resize_mode
        train = folders["train"]
        self.class_names = _class_folders(train)
        if not self.class_names:
            raise UsageError(f"{train} has no class folders: expected {train}/CLASS/*.png.")
        for folder in folders.values():
            if unknown := [n for n in _class_folders(folder) if n not in self.class_names]:
                raise UsageError(
                    f"{folder} has classes that {train} lacks: {', '.join(unknown)}. Every split "
                    "must have the same."
                )

    def read(self, folder: Path) -> Split:
        """The images of a split, class by class."""
        files = list(self._files(folder))
        if missing := self._missing_classes(label for _, label in files):
            raise UsageError(f"{folder} has no images of {first_few(missing)}.")
        check_memory(str(folder), len(files) * int(np.prod(self._input_size)))
        images = np.empty((len(files), *self._input_size), np.uint8)
        labels: list[int] = []
        unreadable: list[str] = []
        for path, label in tqdm(files, str(folder), leave=False, disable=None):
            try:
                images[len(labels)] = load_image(path, self._input_size, self._resize_mode)
                labels.append(label)
            except VitsdError as error:
                unreadable.append(str(error))
        _warn_of(unreadable, len(files), folder)
        if missing := self._missing_classes(labels):
            raise VitsdError(f"{folder} has no readable images of {first_few(missing)}.")
        return Split(images[: len(labels)], np.array(labels, np.int64))

    def _files(self, folder: Path) -> Iterator[tuple[Path, int]]:
        for label, name in enumerate(self.class_names):
            for path in sorted((folder / name).rglob("*")):
                if is_image_file(path):
                    yield path, label

    def _missing_classes(self, labels: Iterable[int]) -> list[str]:
        there = set(labels)
        return [name for i, name in enumerate(self.class_names) if i not in there]


def _warn_of(unreadable: list[str], total: int, folder: Path) -> None:
    if not unreadable:
        return
    lines = [f"{len(unreadable)} of {total} images in {folder} were skipped:"]
    _log.warning("\n  ".join(lines + unreadable[:_NAMED]))
