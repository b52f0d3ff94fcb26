"""Datasets in ``.npz`` files; a file may come from anyone."""

from __future__ import annotations

import logging
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vitsd.data.dataset import Dataset, Labels, Split
from vitsd.data.memory import check_memory
from vitsd.data.npy import read_header
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.loading import load_image, native
from vitsd_runtime.spec.limits import MAX_CLASSES
from vitsd_runtime.system.text import first_few, first_line
from vitsd_runtime.types import AnyArray, UInt8Array, ValueRange

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_VALIDATION = ("x_val", "y_val")
_NAMES = "class_names"
_READ = ", ".join((*_ARRAYS, *_VALIDATION, _NAMES))
_log = logging.getLogger(__name__)
_MAX_NAMES_BYTES = 64 * 2**20
"""Each name takes as much as the longest."""


def load_npz(path: Path, value_range: ValueRange | None = None) -> Dataset:
    """Read an ``.npz`` file with x_train, y_train, x_test, y_test.

    Optionally it has x_val and y_val, and class_names. Arrays of other names are left out, with a
    warning.

    Args:
        path: of the file.
        value_range: the values that become 0 and 255; with it, pixels of any numeric type are
            taken. None: those of uint8 or uint16.

    Raises:
        UsageError: arrays are missing, or of the wrong type or shape.
        VitsdError: the file is damaged, or unpacks to more than this machine can hold.
    """
    try:
        _check_archive(path)
        arrays = _read_arrays(path)
    except VitsdError:  # UsageError is a ValueError, too
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds for damage
        raise VitsdError(f"{path} can't be read: {first_line(error)}") from error
    splits = {
        part: Split(
            _images(f"{path}: x_{part}", arrays[f"x_{part}"], value_range),
            _labels(f"{path}: y_{part}", arrays[f"y_{part}"]),
        )
        for part in ("train", "test", "val")
        if f"x_{part}" in arrays
    }
    train, test = splits["train"], splits["test"]
    if len(train) == 0:
        raise UsageError(f"{path} has no training images.")
    names = arrays.get(_NAMES)
    class_names = _count_classes(path, train, test) if names is None else _texts(names)
    return Dataset(path.stem, class_names, train, test, splits.get("val"))


def _check_archive(path: Path) -> None:
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type not in known for member in members):
            raise VitsdError(
                f"{path} is packed in a way that NumPy does not use; save it with numpy.savez."
            )
        sizes = {member.filename: member.file_size for member in members}
        # While validation images are cut from the training images, those are there twice.
        cut = 0 if "x_val.npy" in sizes else sizes.get("x_train.npy", 0)
        check_memory(f"{path}, unpacked,", sum(member.file_size for member in members) + cut)
        for member in members:
            if (name := member.filename.removesuffix(".npy")) in (*_ARRAYS, *_VALIDATION, _NAMES):
                _check_header(name, archive, member)


def _check_header(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Compare what an array claims to be with what is there, before NumPy takes memory for it."""
    with archive.open(member) as file:
        shape, _, dtype = read_header(file)
        held = member.file_size - file.tell()
    count = math.prod(shape)
    if count * dtype.itemsize != held and not dtype.hasobject:  # NumPy refuses objects
        raise ValueError(f"{name} claims to be {dtype} {shape}, but holds {held:,} bytes")
    if name == _NAMES and (count > MAX_CLASSES or held > _MAX_NAMES_BYTES):
        raise UsageError(
            f"{name} must be at most {MAX_CLASSES:,} names in {_MAX_NAMES_BYTES:,} bytes; got "
            f"{count:,} in {held:,}."
        )


def _read_arrays(path: Path) -> dict[str, AnyArray]:
    with np.load(path, allow_pickle=False) as archive:
        validation = _VALIDATION if set(_VALIDATION) & set(archive.files) else ()
        wanted = (*_ARRAYS, *validation)
        if missing := [name for name in wanted if name not in archive]:
            raise UsageError(
                f"{path} lacks {', '.join(missing)}; it has "
                f"{', '.join(archive.files) or 'nothing'}."
            )
        if left_out := [name for name in archive.files if name not in (*wanted, _NAMES)]:
            _log.warning("%s: %s left out; %s is what is read.", path, first_few(left_out), _READ)
        return {name: archive[name] for name in (*wanted, _NAMES) if name in archive}


def _images(name: str, array: AnyArray, value_range: ValueRange | None) -> UInt8Array:
    array = native(array)
    numeric = value_range is not None and array.dtype.kind in "uif"
    if array.dtype not in (np.uint8, np.uint16) and not numeric:
        raise UsageError(
            f"{name} must be uint8 pixels (0-255) or uint16 ones (0-65535); got {array.dtype}. For "
            "other numbers, say which become black and white: `value_range=0,1`, for example."
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        raise UsageError(f"{name} must be (n, height, width[, 1 or 3]); got {array.shape}.")
    if array.dtype == np.uint8 and value_range is None:
        return array
    # As a device does it with the same arrays.
    images = np.empty(array.shape, np.uint8)
    for image, values in zip(images, array, strict=True):
        image[:] = load_image(values, values.shape, value_range=value_range)
    return images


def _labels(name: str, array: AnyArray) -> Labels:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(
            f"{name} must be whole numbers of shape (n,); got {array.dtype} {array.shape}."
        )
    if len(array) and array.min() < 0:
        raise UsageError(f"{name} must number the classes from 0; the smallest is {array.min()}.")
    return array.astype(np.int64)


def _count_classes(path: Path, train: Split, test: Split) -> tuple[str, ...]:
    """Class names for a file that holds none: the numbers in its labels."""
    last = int(train.labels.max())
    more_classes = len(np.unique(test.labels)) > len(np.unique(train.labels))
    if more_classes or (len(test.labels) and test.labels.max() > last):
        raise UsageError(f"{path}: the test split has classes that the training split lacks.")
    if last >= len(train):
        raise UsageError(
            f"{path}: y_train reaches {last} with {len(train)} images; number the classes from 0."
        )
    return tuple(str(i) for i in range(last + 1))


def _texts(names: Any) -> tuple[str, ...]:
    return tuple(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        for name in np.ravel(names)
    )
