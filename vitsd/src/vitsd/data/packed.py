"""Packed datasets: the images of a folder, decoded once, in files that need not fit into memory.

A folder of NumPy's ``.npy`` files, ``SPLIT.images.npy``, ``SPLIT.labels.npy`` and
``SPLIT.identities.npy``, and ``vitsd-data.json``, which says what they are. Every library reads
``.npy``, and any image in it is one seek away, which shuffling needs. Splits are those of the
folder, so what is held out is decided as it would be for the folder. A packed dataset may come from
anyone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitsd.data.dataset import SPLITS, Dataset, Split
from vitsd.data.folders import FolderReader, dataset_name, find_training_splits, with_test
from vitsd.data.layout import ClassFolders
from vitsd.data.memory import check_memory
from vitsd.data.npy import write_header
from vitsd.data.stored import StoredArray, StoredImages
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.spec import MAX_JSON_BYTES, MAX_SIDE
from vitsd_runtime.spec.limits import MAX_CLASSES
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.system.json_files import read_json
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import RESIZE_MODES, AnyArray, PathLike, ResizeMode, SplitRule, ValueRange
from vitsd_runtime.validation import REDUCING_GAP, check_value_range

INDEX = "vitsd-data.json"
"""The file by which a packed dataset is known."""
_FORMAT = "vitsd-data"
_VERSION = 1


@dataclass(frozen=True)
class _Index:
    """What ``vitsd-data.json`` says."""

    name: str
    class_names: tuple[str, ...]
    resize_mode: ResizeMode
    value_range: ValueRange | None
    splits: tuple[str, ...]
    reducing_gap: float | None = None
    """Indexes without it are older."""

    @classmethod
    def read(cls, folder: Path) -> _Index:
        """Raises VitsdError for anything that :func:`pack` did not write."""
        path = folder / INDEX
        values = read_json(path, "the index of a packed dataset", MAX_JSON_BYTES, VitsdError)
        try:
            if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
                raise ValueError("it is that of something else")
            if values.pop("version", None) != _VERSION:
                raise ValueError(f"its version is not {_VERSION}: update vitsd")
            index = cls(**values)
            index.check()
        except (ValueError, TypeError) as error:
            raise VitsdError(f"{printable(path)} is unusable: {first_line(error)}") from error
        value_range = None if index.value_range is None else check_value_range(index.value_range)
        return dataclasses.replace(
            index,
            name=printable(index.name),
            class_names=tuple(index.class_names),
            value_range=value_range,
        )

    def check(self) -> None:
        """Raise ValueError if an entry has a wrong type or value."""
        names = self.class_names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("`class_names` must be texts")
        if len(names) > MAX_CLASSES:
            raise ValueError(f"it has more than {MAX_CLASSES:,} classes")
        if not isinstance(self.name, str) or self.resize_mode not in RESIZE_MODES:
            raise ValueError("`name` or `resize_mode` is none")
        if not isinstance(self.splits, list) or "train" not in self.splits:
            raise ValueError("`splits` must name train, at least")
        if not all(split in SPLITS for split in self.splits):
            raise ValueError(f"`splits` may be {', '.join(SPLITS)}")
        if self.value_range is not None:
            check_value_range(self.value_range)
        if self.reducing_gap is not None:
            REDUCING_GAP.check("reducing_gap", self.reducing_gap)


def is_packed(path: PathLike) -> bool:
    """Whether a folder is a packed dataset; an unset variable is not the current folder."""
    return path != "" and (Path(path) / INDEX).is_file()


def load_packed(folder: Path, split_rule: SplitRule = "content") -> Dataset:
    """Open a packed dataset; its images stay on the disk until they are asked for.

    Args:
        folder: made by :func:`pack`.
        split_rule: what decides which images are held out for testing, if none are set apart.

    Raises:
        VitsdError: a file is missing, damaged, or too large for what it is.
    """
    index = _Index.read(folder)
    splits = {name: _load_split(folder, name) for name in SPLITS if name in index.splits}
    splits = with_test(splits, split_rule)
    return Dataset(
        name=index.name,
        class_names=index.class_names,
        train=splits["train"],
        test=splits["test"],
        val=splits.get("val"),
        resize_mode=index.resize_mode,
        split_rule=split_rule,
        value_range=index.value_range,
        reducing_gap=index.reducing_gap,
    )


def _load_split(folder: Path, name: str) -> Split:
    images = StoredArray(_file(folder, name, "images"), np.uint8)
    count, *size = (*images.shape, 0, 0, 0)[:4]
    sides_fit = all(1 <= side <= MAX_SIDE for side in size[:2])
    if len(images.shape) != 4 or size[2] not in (1, 3) or not sides_fit:
        raise VitsdError(
            f"{printable(images.path)} must hold (n, height, width, 1 or 3) with sides of at most "
            f"{MAX_SIDE} pixels; got {printable(images.shape, 80)}."
        )
    if count == 0:
        raise VitsdError(f"{printable(images.path)} holds no images.")
    labels = _read_values(_file(folder, name, "labels"), np.int64, count)
    identities = _read_values(_file(folder, name, "identities"), np.uint64, count)
    return Split(StoredImages(images), labels, identities)


def _read_values(path: Path, dtype: Any, count: int) -> AnyArray:
    stored = StoredArray(path, dtype)
    if stored.shape != (count,):
        raise VitsdError(f"{printable(path)} must hold {count:,} values, one for each image.")
    check_memory(printable(path), count * stored.dtype.itemsize)
    values = np.empty(count, dtype)
    stored.read_into(values, 0)
    return values


def pack(
    folder: PathLike,
    output: PathLike,
    input_size: tuple[int, int],
    resize_mode: ResizeMode = "stretch",
    value_range: ValueRange | None = None,
    reducing_gap: float | None = None,
) -> dict[str, int]:
    """Decode the images of a folder, and write them as a packed dataset.

    Training on it has the same result as on the folder itself.

    Args:
        folder: as for :func:`vitsd.load_dataset`.
        output: a folder that is made, whole or not at all.
        input_size: height and width that images are brought to.
        resize_mode: how.
        value_range: the values that become 0 and 255; None: those of their type.
        reducing_gap: as for :func:`vitsd_runtime.load_image`.

    Returns:
        Number of images by split.

    Raises:
        UsageError: ``output`` is there already, or the folder holds no dataset.
        VitsdError: no image of a class is readable.
    """
    root, target = Path(folder), Path(output)
    if value_range is not None:
        value_range = check_value_range(value_range)
    if reducing_gap is not None:
        reducing_gap = REDUCING_GAP.check("reducing_gap", reducing_gap)
    if not root.is_dir():
        raise UsageError(f"There is no folder {printable(root)}.")
    if is_packed(root):
        raise UsageError(f"{printable(root)} is a packed dataset already.")
    if os.path.lexists(target):
        raise UsageError(
            f"{printable(target)} is there already: choose another `output`, or delete it."
        )
    if target.resolve().is_relative_to(root.resolve()):
        raise UsageError("`output` must not lie in the folder that is packed: it would be a class.")
    splits = find_training_splits(root)
    class_names = list(splits["train"].classes)
    reader = FolderReader(class_names, (*input_size, 3), resize_mode, value_range, reducing_gap)
    with atomic_write(target) as temporary:
        temporary.mkdir()
        counts = {
            name: _pack_split(temporary, name, reader, split) for name, split in splits.items()
        }
        index = {
            "format": _FORMAT,
            "version": _VERSION,
            "name": dataset_name(root),
            "class_names": class_names,
            "resize_mode": resize_mode,
            "value_range": value_range,
            "reducing_gap": reducing_gap,
            "splits": list(splits),
        }
        (temporary / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    return counts


def _pack_split(folder: Path, name: str, reader: FolderReader, split: ClassFolders) -> int:
    """Write a split's images one after the other; returns their number."""
    size, uint8 = reader.input_size, np.dtype(np.uint8)
    labels: list[int] = []
    identities: list[int] = []
    with open(_file(folder, name, "images"), "wb") as file:
        write_header(file, (reader.count(split), *size), uint8)
        for image, identity, label in reader.each(split, complete=True):
            file.write(image.tobytes())
            labels.append(label)
            identities.append(identity)
        file.seek(0)
        write_header(file, (len(labels), *size), uint8)  # unreadable ones were left out
    values: Mapping[str, AnyArray] = {
        "labels": np.array(labels, np.int64),
        "identities": np.array(identities, np.uint64),
    }
    for kind, array in values.items():
        np.save(_file(folder, name, kind), array)
    return len(labels)


def _file(folder: Path, split: str, kind: str) -> Path:
    return folder / f"{split}.{kind}.npy"
