"""``.keras`` files: members of the archive, objects of the HDF5 file, and their bytes."""

from __future__ import annotations

import io
import warnings
import zipfile
from random import Random
from typing import Any

import h5py
import numpy as np

from tools.fuzz.mutators import raw

_WEIGHTS = "model.weights.h5"
Members = list[tuple[str, bytes]]


def mutate(rng: Random, payload: bytes) -> bytes:
    """An archive with changed members, or with changed weights."""
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    choice = rng.random()
    if choice < 0.15:
        return raw.mutate(rng, payload)
    if choice < 0.3:
        return _zip(_changed_members(rng, members), rng)
    weights = dict(members)[_WEIGHTS]
    changed = raw.mutate(rng, weights) if choice < 0.6 else _changed_objects(rng, weights)
    return _zip([(name, changed if name == _WEIGHTS else data) for name, data in members])


def _zip(members: Members, rng: Random | None = None) -> bytes:
    packing = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, data in members:
            # With a fixed date, or no input could be made again.
            kind = rng.choice(packing) if rng else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name), data, kind)
    return out.getvalue()


def _changed_members(rng: Random, members: Members) -> Members:
    members, at = list(members), rng.randrange(len(members))
    name, data = members[at]
    change = rng.randrange(6)
    if change == 0:
        del members[at]
    elif change == 1:
        members.append((name, b""))
    elif change == 2:
        members[at] = (rng.choice(("../" + name, "/tmp/" + name, name.upper(), "x/" + name)), data)
    elif change == 3:
        members[at] = (name, data + bytes(rng.choice((1, 1000, 2**24))))
    elif change == 4:
        members += [(f"assets/{i}", b"") for i in range(rng.choice((1, 1000)))]
    else:
        members[at] = (name, raw.mutate(rng, data))
    return members


def _changed_objects(rng: Random, content: bytes) -> bytes:
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        datasets = [name for name in names if isinstance(file[name], h5py.Dataset)]
        groups = [name for name in names if isinstance(file[name], h5py.Group)]
        for _ in range(rng.choice((1, 1, 2))):
            change = rng.choice(_CHANGES)
            objects = groups if change in _OF_GROUPS else datasets
            # Each once: what has become gigabytes must not be read or written.
            name = objects.pop(rng.randrange(len(objects)))
            try:
                change(rng, file, name)
            except (KeyError, ValueError, TypeError, OSError, RuntimeError):
                continue  # an earlier change took the object away, or HDF5 refuses the combination
    return buffer.getvalue()


def _another_array(rng: Random, file: Any, name: str) -> None:
    shape = file[name].shape
    dtype = rng.choice(("f2", "f4", "f8", "i8", "u1", "c8", "S3", "f4,i4"))
    larger = (*shape[:-1], (shape or (1,))[-1] + 1)
    shape = rng.choice((shape, (), (0,), larger, shape[::-1], (1, *shape)))
    del file[name]
    file[name] = np.zeros(shape, dtype)


def _not_finite(rng: Random, file: Any, name: str) -> None:
    file[name][...] = rng.choice((np.nan, np.inf, 1e38))


def _compressed_bomb(rng: Random, file: Any, name: str) -> None:
    side = rng.choice((2**10, 2**13, 2**15))
    del file[name]
    file.create_dataset(name, (side, side), "f4", chunks=(1024, 1024), compression="gzip")
    file[name][:1024, :1024] = 0


def _compressed(rng: Random, file: Any, name: str) -> None:
    data = file[name][...]
    del file[name]
    file.create_dataset(name, data=data, chunks=True, compression=rng.choice(("gzip", "lzf")))


def _unwritten(rng: Random, file: Any, name: str) -> None:
    """Gigabytes that take no byte in the file."""
    shape = rng.choice(((2**31,), (2**16, 2**16), (2**40,)))
    del file[name]
    file.create_dataset(name, shape, "f4", chunks=(1,) * len(shape) if rng.random() < 0.3 else None)


def _external(rng: Random, file: Any, name: str) -> None:
    shape = file[name].shape
    size = 4 * int(np.prod(shape))
    del file[name]
    place = rng.choice(("/etc/passwd", "/dev/zero", "../x"))
    file.create_dataset(name, shape, "f4", external=[(place, 0, max(4, size))])


def _virtual(rng: Random, file: Any, name: str) -> None:
    shape = file[name].shape
    layout = h5py.VirtualLayout(shape or (1,), "f4")
    layout[...] = h5py.VirtualSource(rng.choice(("/etc/passwd", ".")), "x", shape or (1,))
    del file[name]
    file.create_virtual_dataset(name, layout)


def _link(rng: Random, file: Any, name: str) -> None:
    del file[name]
    links = (h5py.SoftLink("/"), h5py.SoftLink(f"/{name}"), h5py.ExternalLink("/etc/passwd", "/"))
    file[name] = rng.choice(links)


def _gone(rng: Random, file: Any, name: str) -> None:
    del file[name]


def _another_kind(rng: Random, file: Any, name: str) -> None:
    is_group = isinstance(file[name], h5py.Group)
    del file[name]
    if is_group:
        file[name] = np.zeros(3)
    else:
        file.create_group(name)


def _attributes(rng: Random, file: Any, name: str) -> None:
    value = rng.choice((b"\xff", "\x1b[31m\n", 2**62, np.nan, np.zeros(1000), h5py.Empty("f4")))
    file[name].attrs[rng.choice(("name", "x" * 1000, "\x1b[31m"))] = value


def _crowded(rng: Random, file: Any, name: str) -> None:
    for i in range(rng.choice((1, 2000))):
        file[name].create_group(f"more{i}")


def _deep(rng: Random, file: Any, name: str) -> None:
    file[name].create_group("/".join("d" * rng.choice((10, 1500))))


_OF_GROUPS = (_crowded, _deep)
_CHANGES = (
    _another_array,
    _another_array,
    _not_finite,
    _compressed_bomb,
    _compressed,
    _unwritten,
    _external,
    _virtual,
    _link,
    _gone,
    _another_kind,
    _attributes,
    *_OF_GROUPS,
)
