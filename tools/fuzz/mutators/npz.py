"""``.npz`` datasets: members of the archive, headers of arrays, and their bytes."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from random import Random

import numpy as np

from tools.fuzz.mutators import raw

_HEADERS = (
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4, 4, 3), }",
    "{'descr': '|u1', 'fortran_order': True, 'shape': (100000, 100000, 3), }",
    "{'descr': '|V1000000000', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1," * 40 + "), }",
    "(" * 500,
    "__import__('os').getpid()",
    "9" * 5000,
    "[" * 90 + "]" * 90,
)
_LABELS = ("int64", "uint8", "float32", "bool", "complex64", "U3", "S3", "M8[s]", "int8", "uint64")


def mutate(rng: Random, payload: bytes) -> bytes:
    """An archive with changed arrays, headers or bytes."""
    if rng.random() < 0.25:
        return raw.mutate(rng, payload)
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in rng.sample(list(members), rng.choice((1, 1, 2))):
        members[name] = rng.choice(_CHANGES)(rng, members[name])
    if rng.random() < 0.1:
        del members[rng.choice(list(members))]
    out = io.BytesIO()
    packing = rng.choice((zipfile.ZIP_STORED,) * 8 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, data in members.items():
            for _ in range(2 if rng.random() < 0.05 else 1):
                # With a fixed date, or no input could be made again.
                archive.writestr(zipfile.ZipInfo(name), data, packing)
    return out.getvalue()


def _header(rng: Random, data: bytes) -> bytes:
    return _npy(rng.choice(_HEADERS), data[-1000:])


def _damaged_header(rng: Random, data: bytes) -> bytes:
    return raw.mutate(rng, data[:128]) + data[128:]


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.choice((0, 5, 9, 80, 128, len(data) - 1))]


def _bomb(rng: Random, data: bytes) -> bytes:
    """Zeros, which deflate to almost nothing."""
    count = rng.choice((2**20, 2**24))
    count -= count % 48
    shape = (count // 48, 4, 4, 3)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    return _npy(header, bytes(count))


def _another_array(rng: Random, data: bytes) -> bytes:
    array = np.load(io.BytesIO(data))
    dtype = rng.choice(_LABELS)
    with np.errstate(all="ignore"):
        changed = (
            np.zeros((0, *array.shape[1:]), array.dtype),
            array[..., None],
            array[:1],
            np.full(array.shape, 2**31).astype(dtype) if array.dtype.kind in "iu" else array,
            array.astype(dtype) if array.dtype.kind in "iu" else array,
            np.array(["\x1b[31m", "a\nb"]),
            np.array(7),
        )
    out = io.BytesIO()
    np.save(out, rng.choice(changed))
    return out.getvalue()


def _npy(header: str, data: bytes) -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + data


_CHANGES = (_header, _damaged_header, _cut, _bomb, _another_array, _another_array, _another_array)
