"""The publisher's side: sign releases, and lay them out for a static host."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    FILE_NAME,
    FILES,
    INDEX,
    RUNTIME,
    SHA256,
    Index,
    Release,
    ReleasedFile,
    read_index,
    read_keys,
    read_release,
    to_dict,
)
from vitsd_runtime.system.files import atomic_write, locked, remove, write_text
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

    rollout: float | None = None
    """Percent of the devices that are to take the newest release; all take the others. None: that
    of the index that is there, or 100 for a release that is not in it."""
    days: float = 30.0
    """Until the index expires."""
    serial: int | None = None
    """None: one more than that of the index that is there."""
    trusted: Collection[bytes] = ()
    """Public keys that the devices know; none: that of the key that signs."""
    keys: PathLike | None = None
    """The signed statement of who may sign; None: that of the index that is there, if any."""
    prune: bool = False
    """Remove files that neither the new index offers nor the one before, from which devices may
    still be downloading."""


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
    for path in paths:
        if not FILE_NAME.fullmatch(path.name):
            raise UsageError(
                f"{printable(path)} must be renamed: to letters, digits, '.', '_' and '-', the "
                "first a letter or digit."
            )
    if not RUNTIME.fullmatch(needs_runtime):
        raise UsageError(
            f"`needs_runtime` must be numbers and dots, as 1.2.0; got {printable(needs_runtime)!r}."
        )
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
        VitsdError: a device would refuse it, a file is not the one that was signed, or another
            publisher is at work in the folder.
    """
    with _alone(Path(folder)):
        return _publish(Path(folder), releases, seed, publication)


def _publish(
    folder: Path, releases: Sequence[PathLike], seed: bytes, publication: Publication
) -> Index:
    trusted = publication.trusted or [public_of(seed)]
    indexed = (folder / INDEX).exists()
    there = _read(folder / INDEX) if indexed else {}
    old = read_index(there, trusted, now=0) if indexed else None
    keys = _read(publication.keys) if publication.keys else there.get("keys")
    signers = read_keys(keys, trusted).release if keys else trusted
    offered = {path: _read(path) for path in releases}
    sealed = list(offered.values()) or [offer.sealed for offer in (old.offers if old else ())]
    if not sealed:
        raise UsageError(f"Name signed releases: {printable(folder)} holds no index yet.")
    found = [(read_release(each, signers), each) for each in sealed]
    ordered = sorted(found, key=lambda pair: -pair[0].version)
    channel = old.channel if old else ordered[0][0].channel
    now = int(time.time())
    content = {
        "channel": channel,
        "serial": publication.serial or (old.serial + 1 if old else 1),
        "created": now,
        "expires": int(now + publication.days * _DAY),
        "offers": [
            {"rollout": 100 if place else _rollout(publication, release, old), "release": each}
            for place, (release, each) in enumerate(ordered)
        ],
    }
    new = envelope.seal("index", content, seed)
    if keys:
        new["keys"] = keys
    index = read_index(new, trusted, now)  # what no device would take is not published
    if old:
        _check_follows(index, old)
    for path, (release, _) in zip(offered, found):
        for source, file in _beside(path, release):
            _copy(source, file, folder / FILES / file.sha256)
    write_text(folder / INDEX, json.dumps(new, indent=1) + "\n")
    if publication.prune:
        _prune(folder / FILES, [index, *([old] if old else ())])
    return index


def write_statement(path: PathLike, sealed: Mapping[str, Any]) -> None:
    """Write a signed statement, which may take the place of another one.

    Raises:
        UsageError: something else is there, as a model or a key.
    """
    if os.path.isfile(path):
        try:
            there = _read(path)
        except VitsdError:
            there = None
        if not isinstance(there, dict) or "payloadType" not in there:
            raise UsageError(
                f"{printable(path)} is no signed statement, and stays: choose another `output`."
            )
    write_text(path, json.dumps(sealed, indent=1) + "\n")


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


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other publishers away, who would give the same serial number to another index.

    The folder is made if missing, and removed again if the block fails.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{printable(folder)} can't be made a folder.") from error
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(Path(os.path.realpath(folder)), of_others=True))
        except BlockingIOError as error:
            raise VitsdError(f"Another vitsd-release is at work in {printable(folder)}.") from error
        except (OSError, ImportError):  # not everywhere can folders be locked
            pass
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                for path in missing:
                    path.rmdir()
            raise


def _prune(files: Path, indexes: Sequence[Index]) -> None:
    offered = {s for index in indexes for offer in index.offers for s in _sums(offer.release)}
    for path in files.iterdir():
        if SHA256.fullmatch(path.name) and path.name not in offered:
            remove(path)


def _rollout(publication: Publication, newest: Release, old: Index | None) -> float:
    if publication.rollout is not None:
        return publication.rollout
    offers = old.offers if old else ()
    return next((o.rollout for o in offers if o.release.version == newest.version), 100.0)


def _check_follows(new: Index, old: Index) -> None:
    """Raise UsageError for what devices would refuse that have seen the old index."""
    if (new.keys_version, new.serial) <= (old.keys_version, old.serial):
        raise UsageError(
            f"Devices that have seen `serial={old.serial}` (keys {old.keys_version}) would refuse "
            f"{new.serial} (keys {new.keys_version}) as an old one."
        )
    published = {offer.release.version: offer.release for offer in old.offers}
    for offer in new.offers:
        release = published.get(offer.release.version)
        if release and not _sums(release) <= _sums(offer.release):
            raise UsageError(
                f"Version {release.version} is published already, with other files: sign these as "
                "a new version."
            )


def _sums(release: Release) -> set[str]:
    return {file.sha256 for file in release.files}


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
