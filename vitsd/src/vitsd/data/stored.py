"""Images that stay in their file, and are read when they are asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitsd.data.npy import read_header
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.files import identify
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import AnyArray, UInt8Array


class StoredArray:
    """An array in a ``.npy`` file: what its header claims was compared with the file's size.

    Args:
        path: of the file.
        dtype: that it must have.

    Raises:
        VitsdError: the file is missing, damaged, or holds something else.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        if not path.is_file():  # a pipe would never end
            raise VitsdError(f"{printable(path)} is missing: pack the folder again.")
        try:
            with open(path, "rb") as file:
                self.shape, fortran, found = read_header(file)
                self.offset = file.tell()
        except ValueError as error:
            raise VitsdError(f"{printable(path)} is damaged: {first_line(error)}") from error
        held = path.stat().st_size - self.offset
        if found != self.dtype or fortran or math.prod(self.shape) * found.itemsize != held:
            raise VitsdError(
                f"{printable(path)} must hold {self.dtype} in C order; it claims to be {found} "
                f"{printable(self.shape, 80)}, and holds {held:,} bytes."
            )
        self.identity = identify(path)

    def read_into(self, target: AnyArray, first: int) -> None:
        """Fill ``target`` with rows, from the row ``first`` on.

        Raises:
            VitsdError: the file was changed since it was opened first.
        """
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        rest = target.reshape(-1).view(np.uint8).data
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + first * row)
            while rest and (count := file.readinto(rest)):
                rest = rest[count:]
        if rest or identify(self.path) != self.identity:
            raise VitsdError(f"{printable(self.path)} was changed while it was in use.")


class StoredImages:
    """Some of the images in a file, in any order; with indices, they come as an array.

    What was read is not kept, so memory does not grow with the file. (Neither is the file mapped
    into memory: one that is cut off meanwhile would end the process.)

    Args:
        stored: uint8 ``(n, height, width, channels)``.
        rows: int64 ``(m,)``, which of them; None: all.
    """

    def __init__(self, stored: StoredArray, rows: npt.NDArray[np.int64] | None = None) -> None:
        self._stored = stored
        self._rows = np.arange(stored.shape[0]) if rows is None else rows

    @property
    def shape(self) -> tuple[int, ...]:
        """``(m, height, width, channels)``."""
        return (len(self._rows), *self._stored.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always uint8."""
        return self._stored.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[UInt8Array]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: int | slice | AnyArray) -> UInt8Array:
        rows = self._rows[key]
        images = np.empty((rows.size, *self._stored.shape[1:]), np.uint8)
        # Neighbors in the file are read at once.
        edges = [0, *(np.flatnonzero(np.diff(rows.ravel()) != 1) + 1), rows.size]
        for start, stop in itertools.pairwise(edges):
            if stop > start:
                self._stored.read_into(images[start:stop], int(rows.ravel()[start]))
        return images.reshape(rows.shape + images.shape[1:])

    def choose(self, indices: slice | AnyArray) -> StoredImages:
        """The images at these indices, still in the file."""
        return StoredImages(self._stored, self._rows[indices])


Images = UInt8Array | StoredImages
"""``(n, height, width, channels)``, 0-255, in memory or in a file."""


def choose(images: Images, indices: slice | AnyArray) -> Images:
    """The images at these indices, in their order, where they are."""
    return images.choose(indices) if isinstance(images, StoredImages) else images[indices]
