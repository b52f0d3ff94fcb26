"""The publisher's side: sign releases, and lay them out for a static host."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitsd_runtime.engines.load import packages_of
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import detect_format, require_spec
from vitsd_runtime.formats.archive import digest_file
from vitsd_runtime.release import envelope
from vitsd_runtime.release.keys import encode, public_of
from vitsd_runtime.release.statements import (
    CHANNEL,
    ENDINGS,
    FILES,
    INDEX,
    Index,
    Release,
    ReleasedFile,
    read_index,
    read_keys,
    read_release,
    to_dict,
)
from vitsd_runtime.system.files import atomic_write, write_text
from vitsd_runtime.system.json_files import read_json
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike

ENDING = ".release.json"
"""Of signed releases."""
_DAY = 86400
_NOT_OLD = "tflite_runtime"
"""Runs only files that were exported for it."""


@dataclass(frozen=True)
class Publication:
    """How releases are offered."""

    rollout: float = 100.0
    """Percent of the devices that are to take the newest release; all take the others."""
    days: float = 30.0
    """Until the index expires."""
    serial: int | None = None
    """None: one more than that of the index that is there."""
    trusted: Collection[bytes] = ()
    """Public keys that the devices know; none: that of the key that signs."""
    keys: PathLike | None = None
    """The signed statement of who may sign; None: that of the index that is there, if any."""


def sign_release(
    models: Sequence[PathLike],
    channel: str,
    release_version: int,
    seed: bytes,
    needs_runtime: str = "0",
) -> dict[str, Any]:
    """Sign one version of a model.

    Args:
        models: exported files, of which a device takes the first that runs there.
        channel: of the devices that are to take it.
        release_version: above those of all earlier releases of the channel.
        seed: the private key.
        needs_runtime: the lowest version of vitsd-runtime that may run it.

    Returns:
        The envelope, of JSON's types.

    Raises:
        UsageError: a model can't be released.
        VitsdError: a model is damaged.
    """
    if not CHANNEL.fullmatch(channel):
        raise UsageError(
            f"`channel` must be letters, digits, '.', '_' and '-'; got {printable(channel)!r}."
        )
    paths = list(map(Path, models))
    if len({path.name for path in paths}) < len(paths):
        raise UsageError("Two of the models have the same name.")
    release = Release(
        channel, release_version, int(time.time()), tuple(map(_describe, paths)), needs_runtime
    )
    sealed = envelope.seal("release", to_dict(release), seed)
    read_release(sealed, [public_of(seed)])  # what no device would take is not signed
    return sealed


def sign_keys(
    keys_version: int,
    release: Collection[bytes],
    index: Collection[bytes],
    days: float,
    seed: bytes,
) -> dict[str, Any]:
    """Say, with a key that the devices know, which keys may sign from now on.

    Args:
        keys_version: above those of all earlier statements.
        release: public keys that may sign releases.
        index: public keys that may sign indexes.
        days: until it expires.
        seed: the private key.

    Returns:
        The envelope, of JSON's types.
    """
    content = {
        "version": keys_version,
        "expires": int(time.time() + days * _DAY),
        "release": list(map(encode, release)),
        "index": list(map(encode, index)),
    }
    sealed = envelope.seal("keys", content, seed)
    read_keys(sealed, [public_of(seed)])
    return sealed


def publish(
    folder: PathLike, releases: Sequence[PathLike], seed: bytes, publication: Publication
) -> Index:
    """Write a channel's folder for a static host: the files, and then the signed index.

    Args:
        folder: for the host.
        releases: signed, each with its files beside it; none: those of the index that is there.
        seed: the private key for the index.
        publication: how they are offered.

    Returns:
        The index.

    Raises:
        UsageError: the releases do not fit together.
        VitsdError: a device would refuse it, or a file is not the one that was signed.
    """
    folder, trusted = Path(folder), publication.trusted or [public_of(seed)]
    there = _read(folder / INDEX) if (folder / INDEX).exists() else {}
    old = read_index(there, trusted, now=0) if there else None
    keys = _read(publication.keys) if publication.keys else there.get("keys")
    signers = read_keys(keys, trusted).release if keys else trusted
    offered = {path: _read(path) for path in releases}
    sealed = list(offered.values()) or [offer.sealed for offer in (old.offers if old else ())]
    if not sealed:
        raise UsageError(f"Name signed releases: {printable(folder)} holds no index yet.")
    found = [(read_release(each, signers), each) for each in sealed]
    found.sort(key=lambda pair: -pair[0].version)
    channel = old.channel if old else found[0][0].channel
    now = int(time.time())
    content = {
        "channel": channel,
        "serial": publication.serial or (old.serial + 1 if old else 1),
        "created": now,
        "expires": int(now + publication.days * _DAY),
        "offers": [
            {"rollout": 100 if place else publication.rollout, "release": each}
            for place, (_, each) in enumerate(found)
        ],
    }
    new = envelope.seal("index", content, seed)
    if keys:
        new["keys"] = keys
    index = read_index(new, trusted, now)  # what no device would take is not published
    for path, each in offered.items():
        for source, file in _beside(path, read_release(each, signers)):
            _copy(source, file, folder / FILES / file.sha256)
    write_text(folder / INDEX, json.dumps(new, indent=1) + "\n")
    return index


def verify_release(path: PathLike, keys: Collection[bytes]) -> Release:
    """Check a signed release, and the files beside it.

    Raises:
        VitsdError: it is not signed by one of the keys, or a file is another.
    """
    release = read_release(_read(path), keys)
    for source, file in _beside(path, release):
        _compare(source, file)
    return release


def verify_folder(folder: PathLike, keys: Collection[bytes]) -> Index:
    """Check a host's folder as a device does that knows these keys, with all of its files.

    Raises:
        VitsdError: a device would refuse it.
    """
    folder = Path(folder)
    index = read_index(_read(folder / INDEX), keys, time.time())
    for offer in index.offers:
        for file in offer.release.files:
            _compare(folder / FILES / file.sha256, file)
    return index


def _describe(path: Path) -> ReleasedFile:
    format = detect_format(path)
    if format not in ENDINGS:
        raise UsageError(
            f"{printable(path)} can't be released: {', '.join(ENDINGS.values())} files can."
        )
    spec = require_spec(path)
    if spec.golden is None:
        raise UsageError(
            f"{printable(path)} carries no golden images, with which devices verify it: export it "
            "again."
        )
    target = spec.export.target if spec.export else ""
    old = format == "tflite" and not target.startswith("tflite-runtime")
    engines = [name for name in packages_of(format) if not (old and name == _NOT_OLD)]
    schema = spec.to_dict()["schema_version"]
    size, sha256 = digest_file(path)
    return ReleasedFile(path.name, size, sha256, format, tuple(engines), schema)


def _beside(path: PathLike, release: Release) -> Iterator[tuple[Path, ReleasedFile]]:
    for file in release.files:
        yield Path(path).parent / file.name, file


def _compare(path: Path, file: ReleasedFile) -> None:
    if not path.is_file():
        raise VitsdError(f"There is no {printable(path)}, which is in the release.")
    if digest_file(path) != (file.size, file.sha256):
        raise VitsdError(f"{printable(path)} is not the file that was signed.")


def _copy(source: Path, file: ReleasedFile, target: Path) -> None:
    if target.exists():
        _compare(target, file)
        return
    _compare(source, file)
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def _read(path: PathLike) -> Any:
    return read_json(path, "a signed statement", envelope.MAX_BYTES)
