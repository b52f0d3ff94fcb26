"""The HDF5 file of a ``.keras`` archive's weights, checked before Keras reads it.

HDF5 can do far more than store weights: take them from other files of the disk, unpack megabytes to
gigabytes, link in circles. Nothing of that is in a file that Keras wrote, so nothing of it is let
through.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from vitsd.config import Shape
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import first_line, printable

_OPTIMIZER = "/optimizer/"
"""The state of training, in a file that was saved with it; it is not read."""
_COPIES = 5
"""Of the weights, 4 bytes each: with the state of training and an average there are four."""
_OBJECTS_PER_WEIGHT, _OTHER_OBJECTS = 20, 200
"""Keras makes two groups of every layer, also of those without weights."""
_OBJECT_BYTES = 4096
_ATTRIBUTES, _ATTRIBUTE_BYTES = 8, 4096
"""Of a group; Keras writes its layer's name."""


def largest_file(shapes: Sequence[Shape]) -> int:
    """Bytes that the file of a model with weights of these shapes may have."""
    return _COPIES * 4 * sum(map(math.prod, shapes)) + _OBJECT_BYTES * _most_objects(shapes)


def check_weights(content: bytes, shapes: Sequence[Shape]) -> None:
    """Check that an HDF5 file holds the weights of a model and nothing that Keras does not write.

    Args:
        content: of the file.
        shapes: of the model's weights, in any order.

    Raises:
        VitsdError: it is damaged, or holds something else; the message begins with what.
    """
    import h5py

    try:
        with h5py.File(h5py.h5f.open_file_image(content)) as file:
            found = Counter(_weights(file.id, len(content), _most_objects(shapes)))
    except VitsdError:
        raise
    except Exception as error:  # h5py raises many kinds for damage
        raise VitsdError(f"the file of its weights is damaged ({first_line(error)})") from error
    if different := list((found - Counter(shapes)) + (Counter(shapes) - found)):
        raise VitsdError(f"its weights are not those of its architecture (shape {different[0]})")


def _most_objects(shapes: Sequence[Shape]) -> int:
    return _OBJECTS_PER_WEIGHT * len(shapes) + _OTHER_OBJECTS


def _weights(file: Any, file_bytes: int, most: int) -> Iterator[Shape]:
    """The shapes of the weights; all objects of the file are checked on the way."""
    import h5py

    groups, objects = [("/", h5py.h5g.open(file, b"/"))], 0
    while groups:
        path, group = groups.pop()
        _check_attributes(group, _ATTRIBUTES, path)
        for i in range(group.get_num_objs()):
            objects += 1
            _require(objects <= most, "more objects than a model has", path)
            name = group.get_objname_by_idx(i)
            inner = path + name.decode("utf-8", "replace")
            link = group.links.get_info(name)
            _require(link.type == h5py.h5l.TYPE_HARD, "a link", inner)
            info = h5py.h5o.get_info(group, name)
            _require(info.rc == 1, "an object with several names", inner)
            if info.type == h5py.h5o.TYPE_GROUP:
                groups.append((f"{inner}/", h5py.h5g.open(group, name)))
                continue
            _require(info.type == h5py.h5o.TYPE_DATASET, "a stored type", inner)
            shape = _check_dataset(h5py.h5d.open(group, name), file_bytes, inner)
            if not inner.startswith(_OPTIMIZER):
                yield shape


def _check_dataset(dataset: Any, file_bytes: int, path: str) -> Shape:
    """The shape of a plain array whose numbers stand in the file, as many as its shape says."""
    import h5py

    _check_attributes(dataset, 0, path)
    plan, kind = dataset.get_create_plist(), dataset.get_type()
    layout = plan.get_layout()
    # Only data in pieces can be packed.
    plain = layout in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
    _require(plain, "data in pieces or elsewhere", path)
    _require(plan.get_external_count() == 0, "data in another file", path)
    numbers = [h5py.h5t.FLOAT]
    if path.startswith(_OPTIMIZER):
        numbers.append(h5py.h5t.INTEGER)
    _require(kind.get_class() in numbers and kind.get_size() <= 8, "other data than numbers", path)
    shape: Shape = tuple(int(n) for n in dataset.shape)
    stored = dataset.get_storage_size()
    complete = stored == math.prod(shape) * kind.get_size()
    if layout == h5py.h5d.CONTIGUOUS and stored:
        complete = complete and (dataset.get_offset() or file_bytes) + stored <= file_bytes
    _require(complete, "fewer numbers than its shape says", path)
    return shape


def _check_attributes(thing: Any, most: int, path: str) -> None:
    import h5py

    count = h5py.h5a.get_num_attrs(thing)
    _require(count <= most, "too many attributes", path)
    for i in range(count):
        attribute = h5py.h5a.open(thing, index=i)
        text = attribute.get_type().get_class() == h5py.h5t.STRING and attribute.shape == ()
        short = attribute.get_storage_size() <= _ATTRIBUTE_BYTES
        _require(text and short, "an attribute that is no short text", path)


def _require(good: bool, otherwise: str, path: str) -> None:
    if not good:
        raise VitsdError(f"the file of its weights holds {otherwise} at {printable(path, 80)}")
