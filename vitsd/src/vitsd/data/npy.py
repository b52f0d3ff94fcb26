"""Headers of NumPy's ``.npy`` format, read before anything is believed that they say."""

from __future__ import annotations

from typing import IO, Any

import numpy as np

from vitsd_runtime.system.text import first_line

_format: Any = np.lib.format  # its functions have no types


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran order, and type; leaves the file where the values begin.

    Raises:
        ValueError: it is none, or one that numbers don't need.
    """
    if _format.read_magic(file) != (1, 0):  # later ones are for longer headers, up to gigabytes
        raise ValueError("it is in a version of NumPy's format that numbers don't need")
    try:
        header: tuple[tuple[int, ...], bool, np.dtype[Any]] = _format.read_array_header_1_0(file)
    except Exception as error:  # those of tokenize and ast, among others
        raise ValueError(first_line(error)) from error
    return header


def write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Of values in C order.

    NumPy leaves room for a larger first dimension, so the header may be written once more.
    """
    header = {"descr": _format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    _format.write_array_header_1_0(file, header)
