"""How a folder of labeled images is laid out: which folders are splits, and which are classes."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vitsd.data.split_names import is_wrapper, split_in, split_of
from vitsd_runtime.errors import UsageError
from vitsd_runtime.images.files import ImageScan, is_hidden, scan_images
from vitsd_runtime.images.loading import is_image_file
from vitsd_runtime.spec import MAX_JSON_BYTES
from vitsd_runtime.system.text import first_few, printable

_LOOSE = 0.1
"""Of the images of a split, the share that may lie beside the class folders."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder:
    """A folder and the images below it."""

    path: Path
    scan: ImageScan

    def __str__(self) -> str:
        return printable(self.path)

    @classmethod
    def look(cls, path: Path) -> ImageFolder:
        """What is in a folder; one that can't be read holds nothing but itself, unreadable."""
        try:
            return cls(path, scan_images(path))
        except OSError:
            return cls(path, ImageScan(unreadable=[path]))

    @property
    def own_images(self) -> int:
        """Number of images in the folder itself."""
        return self._images_by_folder[""]

    @property
    def groups(self) -> list[str]:
        """Names of its folders that hold images, at any depth; sorted."""
        return sorted(filter(None, self._images_by_folder))

    @property
    def holds_classes(self) -> bool:
        """Whether it is a folder of class folders, rather than of images.

        A few images that lie loose beside class folders don't make it a class.
        """
        return self.own_images < _LOOSE * len(self.scan.files)

    @cached_property
    def _images_by_folder(self) -> Counter[str]:
        """How many images each of its folders holds; its own are at ""."""
        depth = len(self.path.parts)
        parts = (file.parts[depth:] for file in self.scan.files)
        return Counter(inside[0] if len(inside) > 1 else "" for inside in parts)


@dataclass(frozen=True)
class ClassFolders:
    """The class folders of a split."""

    path: Path
    """The folder that they are in."""
    classes: Mapping[str, ImageFolder]
    """By the names of the classes, sorted."""

    def __str__(self) -> str:
        return printable(self.path)

    @property
    def with_images(self) -> list[str]:
        """The classes that have images."""
        return [name for name, folder in self.classes.items() if folder.scan.files]


def find_splits(root: Path, *, trainable: bool = True) -> dict[str, ClassFolders]:
    """The class folders of each split; all are those of ``train`` where there are no splits.

    Splits are told from classes by their contents too: a split holds class folders, a class holds
    images. So a class may be called ``train``. What is left out is logged as a warning.

    Args:
        root: the folder.
        trainable: whether there must be images to train on.

    Raises:
        UsageError: it looks like splits, but not of classes; two folders are the same split; there
            is none to train on; or a folder's name can't be that of a class.
        OSError: the folder can't be read.
    """
    folders = _subfolders(root)
    splits = _splits_among(folders)
    if not splits:
        _refuse_splits_without_classes(root, folders)
        _warn_of_loose_images(root, sum(map(is_image_file, root.iterdir())))
        return {"train": ClassFolders(root, _by_class(folders))}
    if trainable and "train" not in splits:
        raise UsageError(
            f"{printable(root)} has {_names(splits.values())} but no train/ with class folders in "
            "it: expected train/CLASS/*.png."
        )
    paths = [folder.path for folder in splits.values()]
    used = {folder.path: any(p.is_relative_to(folder.path) for p in paths) for folder in folders}
    if left_out := [folder for folder in folders if not used[folder.path]]:
        _log.warning(
            "%s: of its folders only %s used, %s left out.",
            printable(root),
            _names(folder for folder in folders if used[folder.path]),
            _names(left_out),
        )
    for folder in splits.values():
        _warn_of_loose_images(folder.path, folder.own_images)
    return {
        split: ClassFolders(folder.path, _by_class(_subfolders(folder.path)))
        for split, folder in splits.items()
    }


def is_among_images(path: Path, root: Path) -> bool:
    """Whether what is put at ``path`` becomes a class, or part of one, of the folder ``root``."""
    path, root = path.resolve(), root.resolve()
    if not path.is_relative_to(root):
        return False
    splits = _splits_among(_subfolders(root)).values()
    return not splits or any(path.is_relative_to(split.path) for split in splits)


def check_classes(folders: ClassFolders) -> None:
    """Check that a split can be learned from, before any image is read.

    Raises:
        UsageError: it has too few classes, some have no images, or they look like something else.
    """
    if not folders.classes:
        raise UsageError(f"{folders} has no class folders: expected {folders}/CLASS/*.png.")
    filled = [folder for folder in folders.classes.values() if folder.scan.files]
    if len(filled) == 1:
        raise UsageError(
            f"{folders} has 1 class with images, {_names(filled)}; a classifier needs at least "
            f"two.{_where_classes_are(filled[0])}"
        )
    require_images(folders, folders.classes)
    nested = [folder for folder in filled if len(folder.groups) > 1 and not folder.own_images]
    for folder in nested:
        if all(map(split_of, folder.groups)):
            raise UsageError(
                f"{folder} holds the splits {first_few(folder.groups)}: put classes into splits, "
                "not splits into classes: expected train/CLASS/*.png."
            )
    if nested:
        more = f", and so do {len(nested) - 1} more" if len(nested) > 1 else ""
        same = len(nested) > 1 and all(folder.groups == nested[0].groups for folder in nested)
        _log.warning(
            "%s holds folders (%s) instead of images%s: all images below are taken for one class."
            "%s",
            nested[0],
            first_few(nested[0].groups),
            more,
            " If those are the classes, call the folders around them train/ and test/." * same,
        )


def require_images(folders: ClassFolders, classes: Iterable[str]) -> None:
    """Raise UsageError if a split lacks images of some classes; says what it has instead."""
    there = set(folders.with_images)
    if empty := [name for name in classes if name not in there]:
        folder = folders.classes.get(empty[0])
        instead = folder.scan.describe() if folder else None
        raise UsageError(
            f"{folders} has no images of {first_few(empty)}{f': {instead}' if instead else ''}."
        )


def _subfolders(path: Path) -> list[ImageFolder]:
    """The folders in a folder, but for hidden ones and those of systems; sorted by name."""
    paths = (p for p in path.iterdir() if not is_hidden(p.name) and p.is_dir())
    return [ImageFolder.look(p) for p in sorted(paths)]


def _by_class(folders: Sequence[ImageFolder]) -> dict[str, ImageFolder]:
    """Class folders by the names of their classes, sorted.

    Names are in Unicode's composed form (NFC): macOS stores them decomposed, and the same folder
    copied from there must be the same class.

    Raises:
        UsageError: a name can't be that of a class, or there are too many.
    """
    classes: dict[str, ImageFolder] = {}
    for folder in folders:
        name = unicodedata.normalize("NFC", folder.path.name)
        if not name.isprintable():
            raise UsageError(
                f"{folder} can't be a class, because its name holds characters that can't be "
                "printed: rename it."
            )
        if name in classes:
            raise UsageError(
                f"{folder} is there twice, its accents encoded in two ways: put all images into "
                "one of the two folders."
            )
        classes[name] = folder
    _warn_of_twins(classes)
    if len(json.dumps(list(classes))) > MAX_JSON_BYTES // 2:  # the rest of a spec needs room too
        raise UsageError(
            f"{printable(folders[0].path.parent)} has {len(classes):,} class folders, with more "
            "names than a model file holds: expected one folder for each class."
        )
    return dict(sorted(classes.items()))


def _warn_of_twins(names: Iterable[str]) -> None:
    """Two names that differ by case or spaces may be one class, sorted by two people."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    if twins := [repr(name) for group in alike.values() if len(group) > 1 for name in group]:
        _log.warning(
            "%s are different classes, although only capitals or spaces tell their names apart.",
            first_few(twins),
        )


def _splits_among(folders: Sequence[ImageFolder]) -> dict[str, ImageFolder]:
    """Folders that are splits by their names and by what they hold.

    Raises:
        UsageError: two are the same split.
    """
    found = _named(folders, split_of)
    if not found:
        # One such name may be a class's; seg_train beside seg_test is no accident.
        names = {split_in(folder.path.name) for folder in folders if folder.scan.files} - {None}
        if not {"train"} < names:
            return {}
        found = _named(folders, split_in)
    splits: dict[str, ImageFolder] = {}
    for split, folder in found:
        if split in splits:
            raise UsageError(
                f"{splits[split]} and {folder} are both the {split} split by their names: rename "
                "the one that is not."
            )
        splits[split] = folder
    return splits


def _named(
    folders: Sequence[ImageFolder], naming: Callable[[str], str | None]
) -> list[tuple[str, ImageFolder]]:
    named = ((naming(folder.path.name), folder) for folder in folders)
    unpacked = ((split, _unwrapped(folder)) for split, folder in named if split)
    return [(split, folder) for split, folder in unpacked if folder.holds_classes]


def _unwrapped(split: ImageFolder) -> ImageFolder:
    """The folder that a split's classes are in, where it lies alone in the split's."""
    while split.groups and not split.own_images:
        only, *more = split.groups
        if more or not is_wrapper(only, split.path.name):
            break
        split = ImageFolder.look(split.path / only)
    return split


def _refuse_splits_without_classes(root: Path, folders: Sequence[ImageFolder]) -> None:
    """Splits that hold images directly say nothing of classes, and are no classes themselves."""
    filled = [folder for folder in folders if folder.scan.files]
    named = [folder for folder in filled if split_of(folder.path.name)]
    several = len({split_of(folder.path.name) for folder in named}) > 1
    if several and len(named) == len(filled):
        raise UsageError(
            f"{printable(root)} has {_names(named)}, which are splits by their names but hold no "
            "class folders: expected train/CLASS/*.png."
        )
    if named:
        _log.warning(
            "%s: %s taken for a class, not for a split, because it holds images directly.",
            printable(root),
            _names(named),
        )


def _where_classes_are(folder: ImageFolder) -> str:
    """A hint for a dataset that lies deeper than the folder that was given."""
    while len(folder.groups) == 1 and not folder.own_images:
        folder = ImageFolder.look(folder.path / folder.groups[0])
    if not folder.holds_classes:
        return ""
    return (
        f" {folder} holds {first_few(folder.groups)}: if those are the classes, or the splits, "
        "give that folder."
    )


def _warn_of_loose_images(folder: Path, count: int) -> None:
    if count:
        _log.warning(
            "%s: %d images left out that lie beside the class folders, not in one.",
            printable(folder),
            count,
        )


def _names(folders: Iterable[ImageFolder]) -> str:
    return first_few([f"{folder.path.name}/" for folder in folders])
