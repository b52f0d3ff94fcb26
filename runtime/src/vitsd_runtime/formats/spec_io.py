"""Read, check and write the spec of a model in any format."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Protocol

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import keras, onnx, saved_model, tflite
from vitsd_runtime.formats.archive import FoundSpec, digest_file
from vitsd_runtime.formats.detect import detect_format
from vitsd_runtime.spec import Integrity, ModelSpec
from vitsd_runtime.system.files import identify
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Format, PathLike


class _SpecStore(Protocol):
    """What a module of this package offers for its format."""

    def find_spec(self, path: Path) -> FoundSpec | None:
        """The spec; None if there is none. Raises VitsdError if the model is cut off."""

    def integrity(self, path: Path, size: int | None) -> Integrity:
        """Digests of the model: of its first ``size`` bytes, where a spec follows."""

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
    found = store.find_spec(path)
    if found is None:
        return None
    spec = _parse(path, found)
    if verify:
        _verify(path, store, found, spec.integrity)
    return spec


def digest_model(path: Path) -> str:
    """SHA-256 of a model's file; of a SavedModel, that of the names and SHA-256s of its files."""
    if not path.is_dir():
        return digest_file(path)[1]
    folder = saved_model.find_saved_model(path)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = (f"{digest_file(file)[1]}  {file.relative_to(folder).as_posix()}\n" for file in files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def model_identity(path: Path) -> tuple[int, ...]:
    """:func:`identify` of a model's file; of a SavedModel's graph."""
    return identify(saved_model.find_graph(path) if path.is_dir() else path)


def _parse(path: Path, found: FoundSpec) -> ModelSpec:
    try:
        return ModelSpec.from_json(found.json)
    except VitsdError as error:
        raise VitsdError(f"{printable(path)}: {error}") from error


def require_spec(path: PathLike, verify: bool = True) -> ModelSpec:
    """:func:`read_spec`, for a model that must carry one.

    Raises:
        UsageError: it carries none, or there is no such model.
        VitsdError: the file is cut off or damaged, or its spec is unusable.
    """
    spec = read_spec(path, verify)
    if spec is None:
        raise UsageError(
            f"{printable(path)} carries no vitsd spec: it is cut off, or was not made by vitsd."
        )
    return spec


def write_spec(path: PathLike, spec: ModelSpec) -> ModelSpec:
    """Put ``spec`` into the model at ``path``; returns it with its integrity filled in.

    A spec that is there is replaced. The file is changed in place: call this on a temporary path
    (:func:`vitsd_runtime.system.files.atomic_write`).

    Raises:
        UsageError: no such model.
        VitsdError: the file is cut off or damaged, or does not match the spec that is there.
    """
    path = Path(path)
    store = _STORES[detect_format(path)]
    found = store.find_spec(path)
    if found is not None:
        _verify(path, store, found, _parse(path, found).integrity)
    integrity = store.integrity(path, found and found.size)
    spec = _sealed(spec, integrity)
    store.write_spec_json(path, spec.to_json(), integrity.size)
    return spec


_NO_DIGITS = "0" * 64
"""Stand for the spec's own SHA-256 while it is computed."""


def _sealed(spec: ModelSpec, integrity: Integrity) -> ModelSpec:
    """The spec with the model's integrity, and its own SHA-256 in it."""

    def with_digest(digest: str) -> ModelSpec:
        return spec.replace(integrity=dataclasses.replace(integrity, spec_sha256=digest))

    content = with_digest(_NO_DIGITS).to_json().encode()
    return with_digest(hashlib.sha256(content).hexdigest())


def _verify(path: Path, store: _SpecStore, found: FoundSpec, expected: Integrity | None) -> None:
    """Raise VitsdError if the model is not the one that the spec was written for."""
    if expected is None:
        raise VitsdError(
            f"The spec in {printable(path)} holds no SHA-256, so damage would not be noticed: it "
            "is damaged itself, or was not written by vitsd. In the second case load it with "
            "verify=False (--no-verify)."
        )
    actual = store.integrity(path, found.size)
    if actual.size < expected.size:
        raise VitsdError(
            f"{printable(path)} is cut off: {actual.size} bytes instead of {expected.size}. Copy "
            "it again."
        )
    if differing := _differing(found, actual, expected):
        raise VitsdError(
            f"{printable(path)} is damaged or was changed after its export: the SHA-256 of "
            f"{differing} is not the one in its spec. Copy or export it again; if the change is "
            "intentional, load it with verify=False (--no-verify)."
        )


def _differing(found: FoundSpec, actual: Integrity, expected: Integrity) -> str | None:
    """What is not as it was written; None if all of it is."""
    own = expected.spec_sha256
    if own is not None:
        blank = found.json.replace(own.encode(), _NO_DIGITS.encode())
        if hashlib.sha256(blank).hexdigest() != own:
            return "the spec"
    if (actual.size, actual.sha256) != (expected.size, expected.sha256):
        return "the model"
    for name, sha256 in expected.files.items():
        if actual.files.get(name) != sha256:
            return printable(name)
    # Older .keras files are archives as Keras wrote them.
    return None if found.alone or own is None else "the whole file"
