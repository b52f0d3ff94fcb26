"""Read, check and write the spec of a model in any format."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import keras, onnx, saved_model, tflite
from vitsd_runtime.formats.detect import detect_format
from vitsd_runtime.spec import Integrity, ModelSpec
from vitsd_runtime.types import Format, PathLike


class _SpecStore(Protocol):
    """What a module of this package offers for its format."""

    def read_spec_json(self, path: Path) -> bytes | None:
        """The spec's JSON; None if there is none. Raises VitsdError if the model is cut off."""

    def integrity(self, path: Path, size: int | None) -> Integrity:
        """Size and SHA-256 of the model; of its first ``size`` bytes, where a spec follows."""

    def write_spec_json(self, path: Path, content: str, size: int) -> None:
        """Put the spec behind the model's ``size`` bytes, instead of one that is there."""


_STORES: dict[Format, _SpecStore] = {
    "tflite": tflite,
    "onnx": onnx,
    "saved_model": saved_model,
    "keras": keras,
}


def read_spec(path: PathLike, verify: bool = True) -> ModelSpec | None:
    """The spec inside a model file or folder; None if it carries none.

    Args:
        path: a ``.tflite``, ``.onnx`` or ``.keras`` file or a SavedModel folder.
        verify: also check the model's size and SHA-256 against the spec.

    Raises:
        UsageError: no such model.
        VitsdError: the file is cut off or damaged, or its spec is unusable.
    """
    path = Path(path)
    store = _STORES[detect_format(path)]
    content = store.read_spec_json(path)
    if content is None:
        return None
    spec = ModelSpec.from_json(content)
    if verify and spec.integrity is not None:
        _verify(path, store, spec.integrity)
    return spec


def require_spec(path: PathLike, verify: bool = True) -> ModelSpec:
    """:func:`read_spec`, for a model that must carry one.

    Raises:
        UsageError: it carries none, or there is no such model.
        VitsdError: the file is cut off or damaged, or its spec is unusable.
    """
    spec = read_spec(path, verify)
    if spec is None:
        raise UsageError(f"{path} carries no vitsd spec: it is cut off, or was not made by vitsd.")
    return spec


def check_complete(path: PathLike) -> None:
    """Raise VitsdError if the file is visibly cut off, whether or not it carries a spec."""
    _STORES[detect_format(path)].read_spec_json(Path(path))


def write_spec(path: PathLike, spec: ModelSpec) -> ModelSpec:
    """Put ``spec`` into the model at ``path``; returns it with its integrity filled in.

    A spec that is there is replaced. The file is changed in place: call this on a temporary path
    (:func:`vitsd_runtime.system.files.atomic_write`).

    Raises:
        UsageError: no such model.
        VitsdError: the file is cut off or damaged.
    """
    path = Path(path)
    store = _STORES[detect_format(path)]
    old = read_spec(path, verify=False)
    size = old.integrity.size if old is not None and old.integrity is not None else None
    integrity = store.integrity(path, size)
    spec = spec.replace(integrity=integrity)
    store.write_spec_json(path, spec.to_json(), integrity.size)
    return spec


def _verify(path: Path, store: _SpecStore, expected: Integrity) -> None:
    found = store.integrity(path, expected.size)
    if found.size < expected.size:
        raise VitsdError(
            f"{path} is cut off: {found.size} bytes instead of {expected.size}. Copy it again."
        )
    if found != expected:
        raise VitsdError(
            f"{path} is damaged or was changed after its export: its SHA-256 is not the one in "
            "its spec. Copy or export it again; if the change is intentional, load it with "
            "verify=False (--no-verify)."
        )
