"""Datasets in folders: a folder of images for each class."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from vitsd_runtime.types import ResizeMode, SplitRule, UInt8Array, ValueRange

_TEST_FRACTION = 0.2
_NAMED = 10
"""Unreadable images that a warning names."""
_INSTEAD = "Pack the folder with `vitsd-data pack`: then its images stay on the disk."
_log = logging.getLogger(__name__)


def load_folder(
    root: Path,
    input_size: tuple[int, int],
    resize_mode: ResizeMode,
    split_rule: SplitRule = "content",
    value_range: ValueRange | None = None,
    reducing_gap: float | None = None,
) -> Dataset:
    """Read ``train/CLASS/*.png`` with optional ``val/`` and ``test/``, or just ``CLASS/*.png``.

    Images are RGB. Without a ``test`` folder about a fifth of the training images is held out.

    Args:
        root: the folder.
        input_size: height and width that images are brought to.
        resize_mode: how.
        split_rule: what decides which images are held out.
        value_range: the values that become 0 and 255; None: those of their type.
        reducing_gap: as for :func:`vitsd_runtime.load_image`.

    Raises:
        UsageError: there are no class folders, or the splits have different classes.
        VitsdError: no image of a class is readable, or memory is too small.
    """
    splits = find_training_splits(root)
    class_names = list(splits["train"].classes)
    reader = FolderReader(class_names, (*input_size, 3), resize_mode, value_range, reducing_gap)
    cut = [] if {"val", "test"} <= splits.keys() else [splits["train"]]
    reader.require_memory(root, list(splits.values()), cut, _INSTEAD)
    read = {name: reader.read(split, complete=True) for name, split in splits.items()}
    read = with_test(read, split_rule)
    return Dataset(
        name=dataset_name(root),
        class_names=tuple(class_names),
        train=read["train"],
        test=read["test"],
        val=read.get("val"),
        resize_mode=resize_mode,
        split_rule=split_rule,
    )


def find_training_splits(root: Path) -> dict[str, ClassFolders]:
    """The class folders of each split, which all have the same classes, with images in each.

    Raises:
        UsageError: there are no class folders, or the splits have different classes.
    """
    splits = find_splits(root)
    train = splits["train"]
    check_classes(train)
    for split in splits.values():
        _check_same_classes(split, train)
    return splits


def with_test(splits: Mapping[str, Split], split_rule: SplitRule) -> dict[str, Split]:
    """About a fifth of the training images held out for testing, unless some are set apart.

    Raises:
        UsageError: they are too few.
    """
    if "test" in splits:
        return dict(splits)
    train, test = hold_out(splits["train"], _TEST_FRACTION, "test", split_rule)
    return {**splits, "train": train, "test": test}


def load_whole_folder(
    root: Path,
    input_size: tuple[int, int],
    resize_mode: ResizeMode,
    value_range: ValueRange | None = None,
    reducing_gap: float | None = None,
) -> LabeledImages:
    """Read all images of a folder of either kind, whatever split they are in.

    There may be one class only. Args and errors are those of :func:`load_folder`.
    """
    splits = list(find_splits(root, trainable=False).values())
    class_names = sorted({name for split in splits for name in split.with_images})
    if not class_names:
        raise UsageError(f"No images in class folders: expected {printable(root)}/CLASS/*.png.")
    reader = FolderReader(class_names, (*input_size, 3), resize_mode, value_range, reducing_gap)
    copied = splits if len(splits) > 1 else []
    reader.require_memory(root, splits, copied, "Take fewer at a time.")
    images = join([reader.read(split) for split in splits])
    if len(images) == 0:
        raise VitsdError(f"{printable(root)} has no readable images.")
    return LabeledImages(dataset_name(root), tuple(class_names), images)


def dataset_name(root: Path) -> str:
    """What the dataset in a folder is called."""
    return printable(root.resolve().name)


def _check_same_classes(split: ClassFolders, train: ClassFolders) -> None:
    if unknown := [name for name in split.classes if name not in train.classes]:
        raise UsageError(
            f"{split} has classes that {train} lacks: {first_few(unknown)}. Every split must have "
            f"the same: {first_few(list(train.classes))}."
        )
    require_images(split, train.classes)


class FolderReader:
    """Reads the images of splits that number their classes alike.

    Args:
        class_names: of all splits.
        input_size: height, width and channels that images are brought to.
        resize_mode: how.
        value_range: the values that become 0 and 255; None: those of their type.
        reducing_gap: as for :func:`vitsd_runtime.load_image`.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        input_size: tuple[int, int, int],
        resize_mode: ResizeMode,
        value_range: ValueRange | None,
        reducing_gap: float | None,
    ) -> None:
        self.input_size = input_size
        self._class_names = class_names
        self._load = functools.partial(
            load_image,
            input_size=input_size,
            resize_mode=resize_mode,
            value_range=value_range,
            reducing_gap=reducing_gap,
        )

    def count(self, split: ClassFolders) -> int:
        """Number of the image files of a split; not all may be readable."""
        return sum(1 for _ in self._files(split))

    def require_memory(
        self,
        root: Path,
        splits: Sequence[ClassFolders],
        copied: Sequence[ClassFolders],
        instead: str,
    ) -> None:
        """Raise VitsdError unless memory can hold the images of splits.

        Args:
            root: the folder that is named.
            splits: that are read.
            copied: those that are there twice for a while, when they are cut or joined.
            instead: a sentence that says what to do then.
        """
        images = sum(self.count(split) for split in (*splits, *copied))
        name = f"{printable(root)}{', with copies,' if copied else ''}"
        check_memory(name, images * int(np.prod(self.input_size)), instead)

    def read(self, split: ClassFolders, *, complete: bool = False) -> Split:
        """The images of a split, class by class; arguments and errors as for :meth:`each`."""
        total = self.count(split)
        images = np.empty((total, *self.input_size), np.uint8)
        identities = np.empty(total, np.uint64)
        labels = np.empty(total, np.int64)
        count = 0
        for image, identity, label in self.each(split, complete=complete):
            images[count], identities[count], labels[count] = image, identity, label
            count += 1
        return Split(images[:count], labels[:count], identities[:count])

    def each(
        self, split: ClassFolders, *, complete: bool = False
    ) -> Iterator[tuple[UInt8Array, int, int]]:
        """Image, identity and label of each readable image of a split, class by class.

        What is odd about them is logged as warnings.

        Args:
            split: where they are.
            complete: whether there must be a readable image of every class.

        Raises:
            VitsdError: there is none of a class; after the last image.
        """
        _warn_of_left_out(split)
        files = list(self._files(split))
        identities: list[int] = []
        labels: list[int] = []
        unreadable: list[str] = []
        for path, label in tqdm(files, str(split), leave=False, disable=None):
            try:
                image = self._load(path)
                identity = file_identity(path)
            except VitsdError as error:
                unreadable.append(str(error))
            except OSError as error:  # it was removed, or a network's folder is gone
                unreadable.append(first_line(error))
            else:
                identities.append(identity)
                labels.append(label)
                yield image, identity, label
        _warn_of_unreadable(unreadable, len(files), split)
        if complete and len(there := set(labels)) < len(self._class_names):
            missing = [name for i, name in enumerate(self._class_names) if i not in there]
            raise VitsdError(f"{split} has no readable images of {first_few(missing)}.")
        _warn_of_contradictions(np.array(identities, np.uint64), labels, split)

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
