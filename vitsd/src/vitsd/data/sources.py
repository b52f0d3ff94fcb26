"""Where labeled images come from: built-in datasets, folders and ``.npz`` files."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vitsd.data.class_names import CIFAR10, CIFAR100
from vitsd.data.dataset import (
    SPLITS,
    Dataset,
    LabeledImages,
    Split,
    check_dataset,
    hold_out,
    join,
)
from vitsd.data.folders import load_folder, load_whole_folder
from vitsd.data.memory import check_memory
from vitsd.data.npz import load_npz
from vitsd.data.packed import is_packed, load_packed
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import AnyArray, PathLike, ResizeMode, SplitRule, ValueRange
from vitsd_runtime.validation import REDUCING_GAP, check_value_range

_DIGITS_TEST_FRACTION = 0.2
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_FASHION_MNIST = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_Arrays = tuple[tuple[AnyArray, AnyArray], tuple[AnyArray, AnyArray]]
"""Images and labels for training, and for testing."""


def load_dataset(
    source: PathLike,
    input_size: tuple[int, int] | None = None,
    resize_mode: ResizeMode = "stretch",
    split_rule: SplitRule = "content",
    value_range: ValueRange | None = None,
    reducing_gap: float | None = None,
) -> Dataset:
    """Load labeled images.

    Args:
        source: ``digits`` (scikit-learn's), ``fashion-mnist`` (Debian's package if installed, else
            Keras' download), ``cifar10``, ``cifar100`` (downloads); a folder ``train/CLASS/*.png``
            with optional ``val/`` and ``test/``, or just ``CLASS/*.png``; such a folder packed by
            ``vitsd-data pack``; or an ``.npz`` file with x_train, y_train, x_test, y_test and
            optionally x_val, y_val and class_names.
        input_size: height and width that images in a folder are brought to; needed for folders.
        resize_mode: how, and how a device is to do it with photos of any size.
        split_rule: what decides which images are held out where the source does not say it. By
            ``content``, an image stays where it is when others come or go. By ``position`` is how
            models were trained that have no ``split_rule`` in their provenance.
        value_range: the values in files that become 0 and 255, also on a device; others linearly,
            those outside to the nearer one. None: those of their type, 0-255 or 0-65535.
        reducing_gap: of the JPEGs in a folder, as for :func:`vitsd_runtime.load_image`, also on a
            device.

    Returns:
        Images of one size with 1 or 3 channels, and a training and a test split at least.

    Raises:
        UsageError: no such source, or its contents can't be a classification dataset.
        VitsdError: a file is unreadable, or a download failed.
    """
    if value_range is not None:
        value_range = check_value_range(value_range)
    if reducing_gap is not None:
        reducing_gap = REDUCING_GAP.check("reducing_gap", reducing_gap)
    if is_packed(source):
        dataset = _load_packed(
            Path(source), split_rule, value_range=value_range, reducing_gap=reducing_gap
        )
    else:
        dataset = dataclasses.replace(
            _load(str(source), input_size, resize_mode, split_rule, value_range, reducing_gap),
            resize_mode=resize_mode,
            split_rule=split_rule,
            value_range=value_range,
        )
    check_dataset(dataset)
    return dataset


def reading_of(source: PathLike, spec: ModelSpec) -> dict[str, Any]:
    """How a trained model has images read: arguments of :func:`load_dataset` after the source.

    The images of built-in datasets are what they are. Packed ones are decoded already; which way
    makes little difference.
    """
    fixed = str(source) in _BUILT_IN
    return {
        "input_size": spec.input_size[:2],
        "resize_mode": spec.resize_mode,
        "value_range": None if fixed else spec.value_range,
        "reducing_gap": None if fixed or is_packed(source) else spec.reducing_gap,
    }


def load_labeled_images(
    source: PathLike,
    input_size: tuple[int, int] | None = None,
    resize_mode: ResizeMode = "stretch",
    value_range: ValueRange | None = None,
    reducing_gap: float | None = None,
) -> LabeledImages:
    """Load all images of a source, whatever split they are in.

    A folder may hold a single class. Args and errors are those of :func:`load_dataset`.
    """
    if is_folder(str(source)):
        size = _required(input_size)
        return load_whole_folder(Path(source), size, resize_mode, value_range, reducing_gap)
    dataset = load_dataset(source, value_range=value_range)
    splits = [split for name in SPLITS if (split := getattr(dataset, name)) is not None]
    needed = sum(len(split) for split in splits) * math.prod(dataset.image_shape)
    check_memory(f"{dataset.name} as a whole", needed, "Take one split at a time.")
    return LabeledImages(dataset.name, dataset.class_names, join(splits))


def _load(
    name: str,
    input_size: tuple[int, int] | None,
    resize_mode: ResizeMode,
    split_rule: SplitRule,
    value_range: ValueRange | None,
    reducing_gap: float | None,
) -> Dataset:
    if name in _BUILT_IN:
        if value_range is not None:
            raise UsageError(f"The images of {name} fill 0 to 255: leave out `value_range`.")
        return _BUILT_IN[name]()
    path = Path(name)
    if is_folder(name):
        size = _required(input_size)
        dataset = load_folder(path, size, resize_mode, split_rule, value_range, reducing_gap)
        return dataclasses.replace(dataset, reducing_gap=reducing_gap)
    if path.is_file() and path.suffix.lower() == ".npz":
        return load_npz(path, value_range)
    if name and path.exists():
        raise UsageError(
            f"{printable(name)} is neither a folder nor an .npz file: unpack an archive, and give "
            "the folder of class folders in it."
        )
    raise UsageError(
        f"There is no dataset {name!r}: use {', '.join(BUILT_IN)}, a folder of class folders, or "
        "an .npz file."
    )


def is_folder(name: str) -> bool:
    """Whether a source is a folder of images; an unset variable is not the current folder."""
    return name not in ("", *_BUILT_IN) and Path(name).is_dir() and not is_packed(name)


def _load_packed(path: Path, split_rule: SplitRule, **wanted: Any) -> Dataset:
    dataset = load_packed(path, split_rule)
    for name, value in wanted.items():
        if value not in (None, packed := getattr(dataset, name)):
            raise UsageError(
                f"{printable(path)} was packed with the `{name}` {packed}, not {value}: leave it "
                "out, or pack the folder again with that."
            )
    return dataset


def _required(input_size: tuple[int, int] | None) -> tuple[int, int]:
    if input_size is None:
        raise UsageError(
            "Images in a folder have no common size: say which one the model should get "
            "(input_size)."
        )
    return input_size


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise VitsdError(
            'The dataset `digits` comes with scikit-learn: pip install "vitsd[digits]".'
        ) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # stored as 0-16
    split = Split(images, digits.target.astype(np.int64))
    # These images never change, so this cut has never had to.
    parts = hold_out(split, _DIGITS_TEST_FRACTION, "test", "position")
    return Dataset("digits", tuple("0123456789"), *parts)


def _fashion_mnist() -> Dataset:
    if _DEBIAN_FASHION_MNIST.is_dir():
        arrays = _read_debian_fashion_mnist()
    else:
        arrays = _download("fashion_mnist")
    return _from_arrays("fashion-mnist", _FASHION_MNIST, arrays)


def _read_debian_fashion_mnist() -> _Arrays:
    def read(stem: str, header: int) -> AnyArray:
        with gzip.open(_DEBIAN_FASHION_MNIST / f"{stem}-ubyte.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    def part(name: str) -> tuple[AnyArray, AnyArray]:
        images = read(f"{name}-images-idx3", 16).reshape(-1, 28, 28)
        return images, read(f"{name}-labels-idx1", 8)

    try:
        return part("train"), part("t10k")
    except (OSError, ValueError, EOFError) as error:
        raise VitsdError(
            f"{_DEBIAN_FASHION_MNIST} is unusable ({first_line(error)}): reinstall "
            "dataset-fashion-mnist."
        ) from error


def _download(name: str) -> _Arrays:
    """A dataset of ``keras.datasets``."""
    import keras

    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress; stdout is for results
            arrays: _Arrays = getattr(keras.datasets, name).load_data()
            return arrays
    except Exception as error:  # urllib's, ssl's and Keras' own errors
        raise VitsdError(
            f"{name} could not be downloaded ({first_line(error)}). Offline, use a folder or an "
            ".npz file."
        ) from error


def _from_arrays(name: str, class_names: tuple[str, ...], arrays: _Arrays) -> Dataset:
    train, test = (
        Split(images if images.ndim == 4 else images[..., None], labels.ravel().astype(np.int64))
        for images, labels in arrays
    )
    return Dataset(name, class_names, train, test)


_BUILT_IN: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": lambda: _from_arrays("cifar10", CIFAR10, _download("cifar10")),
    "cifar100": lambda: _from_arrays("cifar100", CIFAR100, _download("cifar100")),
}
BUILT_IN = tuple(_BUILT_IN)
"""Names of the datasets that need no file."""
