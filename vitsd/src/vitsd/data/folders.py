"""Datasets in folders: a folder of images for each class."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vitsd.data.dataset import Dataset, LabeledImages, Split, hold_out, join
from vitsd.data.identity import Identities, file_identity
from vitsd.data.layout import ClassFolders, check_classes, find_splits, require_images
from vitsd.data.memory import check_memory
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.files import ImageScan
from vitsd_runtime.images.loading import load_image
from vitsd_runtime.system.text import first_few, first_line, printable
from vitsd_runtime.types import ResizeMode, SplitRule, ValueRange

_TEST_FRACTION = 0.2
_NAMED = 10
"""Unreadable images that a warning names."""
_log = logging.getLogger(__name__)


def load_folder(
    root: Path,
    input_size: tuple[int, int],
    resize_mode: ResizeMode,
    split_rule: SplitRule = "content",
    value_range: ValueRange | None = None,
) -> Dataset:
    """Read ``train/CLASS/*.png`` with optional ``val/`` and ``test/``, or just ``CLASS/*.png``.

    Images are RGB. Without a ``test`` folder about a fifth of the training images is held out.

    Args:
        root: the folder.
        input_size: height and width that images are brought to.
        resize_mode: how.
        split_rule: what decides which images are held out.
        value_range: the values that become 0 and 255; None: those of their type.

    Raises:
        UsageError: there are no class folders, or the splits have different classes.
        VitsdError: no image of a class is readable, or memory is too small.
    """
    splits = find_splits(root)
    train = splits["train"]
    check_classes(train)
    for split in splits.values():
        _check_same_classes(split, train)
    reader = _Reader(list(train.classes), (*input_size, 3), resize_mode, value_range)
    read = {name: reader.read(split, complete=True) for name, split in splits.items()}
    if "test" not in read:
        read["train"], read["test"] = hold_out(read["train"], _TEST_FRACTION, "test", split_rule)
    return Dataset(
        name=_name(root),
        class_names=tuple(train.classes),
        train=read["train"],
        test=read["test"],
        val=read.get("val"),
        resize_mode=resize_mode,
        split_rule=split_rule,
    )


def load_whole_folder(
    root: Path,
    input_size: tuple[int, int],
    resize_mode: ResizeMode,
    value_range: ValueRange | None = None,
) -> LabeledImages:
    """Read all images of a folder of either kind, whatever split they are in.

    There may be one class only. Args and errors are those of :func:`load_folder`.
    """
    splits = find_splits(root, trainable=False).values()
    class_names = sorted({name for split in splits for name in split.with_images})
    if not class_names:
        raise UsageError(f"No images in class folders: expected {printable(root)}/CLASS/*.png.")
    reader = _Reader(class_names, (*input_size, 3), resize_mode, value_range)
    images = join([reader.read(split) for split in splits])
    if len(images) == 0:
        raise VitsdError(f"{printable(root)} has no readable images.")
    return LabeledImages(_name(root), tuple(class_names), images)


def _name(root: Path) -> str:
    """Of the dataset."""
    return printable(root.resolve().name)


def _check_same_classes(split: ClassFolders, train: ClassFolders) -> None:
    if unknown := [name for name in split.classes if name not in train.classes]:
        raise UsageError(
            f"{split} has classes that {train} lacks: {first_few(unknown)}. Every split must have "
            f"the same: {first_few(list(train.classes))}."
        )
    require_images(split, train.classes)


class _Reader:
    """Reads the images of splits that number their classes alike."""

    def __init__(
        self,
        class_names: Sequence[str],
        input_size: tuple[int, int, int],
        resize_mode: ResizeMode,
        value_range: ValueRange | None,
    ) -> None:
        self._class_names, self._input_size = class_names, input_size
        self._resize_mode, self._value_range = resize_mode, value_range

    def read(self, split: ClassFolders, *, complete: bool = False) -> Split:
        """The images of a split, class by class.

        Args:
            split: where they are.
            complete: whether there must be a readable image of every class.
        """
        _warn_of_left_out(split)
        files = list(self._files(split))
        check_memory(str(split), len(files) * int(np.prod(self._input_size)))
        images = np.empty((len(files), *self._input_size), np.uint8)
        identities = np.empty(len(files), np.uint64)
        labels: list[int] = []
        unreadable: list[str] = []
        for path, label in tqdm(files, str(split), leave=False, disable=None):
            try:
                images[len(labels)] = load_image(
                    path, self._input_size, self._resize_mode, self._value_range
                )
                identities[len(labels)] = file_identity(path)
                labels.append(label)
            except VitsdError as error:
                unreadable.append(str(error))
            except OSError as error:  # it was removed, or a network's folder is gone
                unreadable.append(first_line(error))
        _warn_of_unreadable(unreadable, len(files), split)
        if complete and len(there := set(labels)) < len(self._class_names):
            missing = [name for i, name in enumerate(self._class_names) if i not in there]
            raise VitsdError(f"{split} has no readable images of {first_few(missing)}.")
        count = len(labels)
        _warn_of_contradictions(identities[:count], labels, split)
        return Split(images[:count], np.array(labels, np.int64), identities[:count])

    def _files(self, split: ClassFolders) -> Iterator[tuple[Path, int]]:
        for label, name in enumerate(self._class_names):
            if name in split.classes:
                for path in split.classes[name].scan.files:
                    yield path, label


def _warn_of_left_out(split: ClassFolders) -> None:
    """Say what is in class folders and is no image, and which classes it leaves poor."""
    scans = {name: folder.scan for name, folder in split.classes.items()}
    there = ImageScan(
        left_out=sum((scan.left_out for scan in scans.values()), Counter[str]()),
        unreadable=[path for scan in scans.values() for path in scan.unreadable],
    ).describe()
    if there is None:
        return
    poor = [name for name, scan in scans.items() if scan.left_out.total() > len(scan.files)]
    most = f". Most files of {first_few(poor)}" if poor else ""
    _log.warning("%s: %s%s.", split, there, most)


def _warn_of_contradictions(
    identities: Identities, labels: Sequence[int], split: ClassFolders
) -> None:
    """Say how many images lie in the folders of several classes; a model can't learn both."""
    kinds = np.unique(np.stack([identities, np.array(labels, np.uint64)]), axis=1)[0]
    images, classes = np.unique(kinds, return_counts=True)
    if count := int(np.isin(identities, images[classes > 1]).sum()):
        _log.warning("%s: %d images are copies of ones in other classes.", split, count)


def _warn_of_unreadable(unreadable: list[str], total: int, split: ClassFolders) -> None:
    if not unreadable:
        return
    lines = [f"{len(unreadable)} of {total} images in {split} were skipped:"]
    _log.warning("%s", "\n  ".join(lines + unreadable[:_NAMED]))
