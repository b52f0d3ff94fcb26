"""Labelled images as uint8 arrays: built-in datasets, folders of class folders, and ``.npz`` files."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
import sys
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.loading import EXTENSIONS, load_image
from vitsd_runtime.types import ResizeMode

BUILT_IN = ("digits", "fashion-mnist", "cifar10", "cifar100")
SPLITS = ("train", "val", "test")
SPLIT_SEED = 0
"""Splits that a source lacks are cut from its training images, always in the same way: what was held out in training is
what calibration, parity and evaluation see."""
_TEST_FRACTION = 0.2
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Split:
    """uint8 images ``(n, height, width, channels)`` and int64 labels ``(n,)``."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices) -> Split:
        return Split(self.images[indices], self.labels[indices])

    def sample(self, limit: int | None, seed: int = 0) -> Split:
        """At most ``limit`` images, chosen at random but always the same."""
        if limit is None or limit >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:limit]))


@dataclass(frozen=True)
class Dataset:
    """Train, test and (in most sources only after :meth:`with_validation`) validation images."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    val: Split | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.train.images.shape[1:])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def with_validation(self, fraction: float) -> Dataset:
        """Hold out that fraction of the training images for validation, unless the source has a validation split."""
        if self.val is not None or fraction == 0:
            return self
        train, val = _hold_out(self.train, fraction)
        return dataclasses.replace(self, train=train, val=val)

    def split(self, name: str, validation: float = 0.1) -> Split:
        """``train``, ``val`` or ``test``; the first two as :meth:`with_validation` leaves them."""
        split = getattr(self.with_validation(validation), name)
        if split is None:
            raise UsageError(f"{self.name} has no {name} split.")
        return split


def load_dataset(
    source: str | os.PathLike,
    input_size: tuple[int, int] | None = None,
    resize_mode: ResizeMode = "stretch",
) -> Dataset:
    """Load labelled images.

    Args:
        source: ``digits`` (scikit-learn's), ``fashion-mnist`` (Debian's package if installed, else Keras' download),
            ``cifar10``, ``cifar100`` (downloads); a folder ``train/CLASS/*.png`` with optional ``val/`` and ``test/``,
            or just ``CLASS/*.png``; or an ``.npz`` with x_train, y_train, x_test, y_test and optionally class_names.
        input_size: height and width to which images in a folder are brought, needed for folders.
        resize_mode: ``stretch`` or ``crop``, for folders.

    Raises:
        UsageError: no such source, or its contents can't be a classification dataset.
        VitsdError: a file is unreadable, or a download failed.
    """
    name = str(source)
    if name in BUILT_IN:
        dataset = {"digits": _digits, "fashion-mnist": _fashion_mnist}.get(
            name, lambda: _cifar(name)
        )()
    elif Path(name).is_dir():
        if input_size is None:
            raise UsageError(
                "Images in a folder have no common size: say which one the model should get (input_size)."
            )
        dataset = _folder(Path(name), input_size, resize_mode)
    elif Path(name).is_file() and name.endswith(".npz"):
        dataset = _npz(Path(name))
    else:
        raise UsageError(
            f"There is no dataset {name!r}: use {', '.join(BUILT_IN)}, a folder of class folders, or an .npz file."
        )
    _check(dataset)
    return dataset


def pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance per channel over uint8 ``(n, height, width, channels)``, float64, in 0-255 units.

    What ``keras.layers.Normalization(axis=-1).adapt`` computes, but exact and without a float copy of the images.
    """
    levels = np.arange(256)
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), 1024):  # bincount works on a copy in 64 bits
        for channel in range(images.shape[-1]):
            counts[channel] += np.bincount(
                images[start : start + 1024, ..., channel].ravel(), minlength=256
            )
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    return mean, (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total


def to_input_size(images: np.ndarray, spec) -> np.ndarray:
    """Images of another size than ``spec.input_size``, brought to it exactly as the runtime does."""
    if images.shape[1:] == spec.input_size:
        return images
    return np.stack([load_image(image, spec.input_size, spec.resize_mode) for image in images])


def align_labels(dataset: Dataset, class_names: tuple[str, ...]) -> np.ndarray:
    """Model class index for each dataset class, so that a model can be judged on data that has part of its classes.

    Raises:
        UsageError: the dataset has classes that the model does not know.
    """
    if unknown := [name for name in dataset.class_names if name not in class_names]:
        raise UsageError(
            f"{dataset.name} has classes that the model was not trained on: {', '.join(unknown[:5])}"
            f"{' ...' if len(unknown) > 5 else ''}. The model knows {', '.join(class_names[:5])}"
            f"{' ...' if len(class_names) > 5 else ''}."
        )
    return np.array([class_names.index(name) for name in dataset.class_names])


def _hold_out(split: Split, fraction: float) -> tuple[Split, Split]:
    """Split at random, class by class; a class of two or more images is in both parts."""
    random = np.random.default_rng(SPLIT_SEED)
    held_out = []
    for label in np.unique(split.labels):
        members = random.permutation(np.flatnonzero(split.labels == label))
        held_out.append(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    held_out = np.sort(np.concatenate(held_out))
    if len(held_out) == 0:
        raise UsageError(
            "There is one training image per class, too few to hold some out; add images."
        )
    return split.take(np.setdiff1d(np.arange(len(split)), held_out)), split.take(held_out)


def _check(dataset: Dataset) -> None:
    if dataset.num_classes < 2:
        raise UsageError(
            f"{dataset.name} has {dataset.num_classes} class; a classifier needs at least two."
        )
    if len(set(dataset.class_names)) < dataset.num_classes:
        raise UsageError(f"{dataset.name} names two classes alike; class names must differ.")
    for name in SPLITS:
        split = getattr(dataset, name)
        if split is None:
            continue
        if len(split) == 0:
            raise UsageError(f"{dataset.name} has no {name} images.")
        if len(split.images) != len(split.labels):
            raise UsageError(
                f"{dataset.name}: {len(split.images)} {name} images but {len(split.labels)} labels."
            )
        if split.images.shape[1:] != dataset.image_shape:
            raise UsageError(
                f"{dataset.name}: {name} images are {split.images.shape[1:]}, training images {dataset.image_shape}."
            )
        if split.labels.min() < 0 or split.labels.max() >= dataset.num_classes:
            raise UsageError(
                f"{dataset.name}: {name} labels reach from {split.labels.min()} to {split.labels.max()}, but there are "
                f"{dataset.num_classes} classes (0 to {dataset.num_classes - 1})."
            )


# --- built-in sources ------------------------------------------------------------------------------------------------


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise VitsdError(
            'The dataset `digits` comes with scikit-learn: pip install "vitsd[digits]".'
        ) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # stored as 0-16
    train, test = _hold_out(Split(images, digits.target.astype(np.int64)), _TEST_FRACTION)
    return Dataset("digits", tuple("0123456789"), train, test)


def _fashion_mnist() -> Dataset:
    names = (
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
    if _DEBIAN_FASHION_MNIST.is_dir():

        def read(stem, offset):
            path = _DEBIAN_FASHION_MNIST / f"{stem}-ubyte.gz"
            with gzip.open(path) as file:
                return np.frombuffer(file.read(), np.uint8, offset=offset)

        try:
            arrays = [
                (
                    read(f"{part}-images-idx3", 16).reshape(-1, 28, 28, 1),
                    read(f"{part}-labels-idx1", 8),
                )
                for part in ("train", "t10k")
            ]
        except (OSError, ValueError, EOFError) as error:
            raise VitsdError(
                f"{_DEBIAN_FASHION_MNIST} is unusable ({error}): reinstall dataset-fashion-mnist."
            ) from error
    else:
        arrays = [(x[..., None], y) for x, y in _download("fashion_mnist")]
    return Dataset("fashion-mnist", names, *(Split(x, y.astype(np.int64)) for x, y in arrays))


def _cifar(name: str) -> Dataset:
    from vitsd.data.class_names import CIFAR10, CIFAR100

    splits = (Split(x, y.reshape(-1).astype(np.int64)) for x, y in _download(name))
    return Dataset(name, CIFAR10 if name == "cifar10" else CIFAR100, *splits)


def _download(name: str):
    import keras

    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress; stdout is for results
            return getattr(keras.datasets, name).load_data()
    except Exception as error:  # urllib's, ssl's and Keras' own errors
        raise VitsdError(
            f"{name} could not be downloaded ({error}). Offline, use a folder or an .npz file."
        ) from error


# --- .npz ------------------------------------------------------------------------------------------------------------


def _npz(path: Path) -> Dataset:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(
            member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            for member in members
        ):
            raise VitsdError(
                f"{path} is packed in a way that NumPy does not use; save it with numpy.savez."
            )
        unpacked = sum(member.file_size for member in members)
        if unpacked > _memory_limit():
            raise VitsdError(
                f"{path} unpacks to {unpacked:,} bytes, more than this machine can hold."
            )
        with np.load(path, allow_pickle=False) as arrays:
            missing = [
                name for name in ("x_train", "y_train", "x_test", "y_test") if name not in arrays
            ]
            if missing:
                raise UsageError(
                    f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays.files) or 'nothing'}."
                )
            names = arrays.get("class_names")
            train, test = (
                Split(
                    _npz_images(path, f"x_{part}", arrays[f"x_{part}"]),
                    _npz_labels(path, f"y_{part}", arrays[f"y_{part}"]),
                )
                for part in ("train", "test")
            )
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        SyntaxError,
        tokenize.TokenError,
    ) as error:
        raise VitsdError(f"{path} can't be read: {error}") from error
    if len(train) == 0:
        raise UsageError(f"{path} has no training images.")
    if names is None:
        counts = [len(np.unique(split.labels)) for split in (train, test)]
        if counts[1] > counts[0] or (len(test) and test.labels.max() > train.labels.max()):
            raise UsageError(f"{path}: the test split has classes that the training split lacks.")
        if train.labels.max() >= len(train):
            raise UsageError(
                f"{path}: y_train reaches {train.labels.max()} with {len(train)} images; number the classes from 0."
            )
        names = [str(i) for i in range(int(train.labels.max()) + 1)]
    names = [
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        for name in np.ravel(names)
    ]
    return Dataset(path.stem, tuple(names), train, test)


def _npz_images(path, name, array) -> np.ndarray:
    if array.dtype != np.uint8:
        raise UsageError(
            f"{path}: {name} must be uint8 pixels 0-255; got {array.dtype}. Convert it when saving."
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        raise UsageError(f"{path}: {name} must be (n, height, width[, 1 or 3]); got {array.shape}.")
    return array


def _npz_labels(path, name, array) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(
            f"{path}: {name} must be whole numbers of shape (n,); got {array.dtype} {array.shape}."
        )
    if len(array) and array.min() < 0:
        raise UsageError(
            f"{path}: {name} must number the classes from 0; the smallest is {array.min()}."
        )
    return array.astype(np.int64)


def _memory_limit() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30


# --- folders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """What :func:`vitsd_runtime.images.loading.load_image` must know of a spec."""

    input_size: tuple[int, int, int]
    resize_mode: ResizeMode


def _folder(root: Path, input_size: tuple[int, int], resize_mode: ResizeMode) -> Dataset:
    has_splits = (root / "train").is_dir()
    train_folder = root / "train" if has_splits else root
    if not has_splits and (root / "test").is_dir() and (root / "val").is_dir():
        raise UsageError(f"{root} has test/ and val/ but no train/ folder.")
    class_names = _class_folders(train_folder)
    if not class_names:
        raise UsageError(
            f"{train_folder} has no class folders: expected {train_folder}/CLASS/*.png."
        )
    target = _Target((*input_size, 3), resize_mode)
    splits = {"train": _read_class_folders(train_folder, class_names, target)}
    for name in ("val", "test"):
        folder = root / name
        if has_splits and folder.is_dir():
            if unknown := [name for name in _class_folders(folder) if name not in class_names]:
                raise UsageError(
                    f"{folder} has classes that {train_folder} lacks: {', '.join(unknown)}. Every split must have the same."
                )
            splits[name] = _read_class_folders(folder, class_names, target)
    if "test" not in splits:
        splits["train"], splits["test"] = _hold_out(splits["train"], _TEST_FRACTION)
    return Dataset(root.resolve().name, class_names, **splits)


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )


def _read_class_folders(folder: Path, class_names, target) -> Split:
    files = [
        (path, label)
        for label, name in enumerate(class_names)
        for path in sorted((folder / name).rglob("*") if (folder / name).is_dir() else ())
        if path.suffix.lower() in EXTENSIONS
    ]
    if empty := [
        name for i, name in enumerate(class_names) if not any(label == i for _, label in files)
    ]:
        raise UsageError(
            f"{folder} has no images of {', '.join(empty[:5])}{' ...' if len(empty) > 5 else ''}."
        )
    needed = len(files) * int(np.prod(target.input_size))
    if needed > _memory_limit():
        raise VitsdError(
            f"{folder}: {len(files)} images of {target.input_size} need {needed:,} bytes of memory."
        )
    images = np.empty((len(files), *target.input_size), np.uint8)
    labels, unreadable = [], []
    for path, label in tqdm(files, str(folder), leave=False, disable=None):
        try:
            images[len(labels)] = load_image(path, target.input_size, target.resize_mode)
            labels.append(label)
        except VitsdError as error:
            unreadable.append(str(error))
    if unreadable:
        print(
            f"warning: {len(unreadable)} of {len(files)} images in {folder} were skipped:",
            file=sys.stderr,
        )
        for message in unreadable[:10]:
            print(f"  {message}", file=sys.stderr)
    if set(labels) != set(range(len(class_names))):
        raise VitsdError(f"{folder}: a class has no readable image.")
    return Split(images[: len(labels)], np.array(labels, np.int64))
