"""What publishers sign: releases, the index of a channel, and who may sign them.

All of it comes from the network, so every field is checked. Entries that a newer version may have
added are passed over.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.release.envelope import unseal
from vitsd_runtime.release.keys import decode
from vitsd_runtime.spec import MAX_MODEL_BYTES
from vitsd_runtime.system.text import printable

T = TypeVar("T")
MAX_VERSION = 10**12
_MAX_TIME = 10**11
"""Seconds since 1970: the year 5138."""
_MAX_LISTED = 16
CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Names of channels."""
FILE_NAME = re.compile(r"[^\W_][\w.-]{0,199}")
"""Names of models in a release."""
SHA256 = re.compile(r"[0-9a-f]{64}")
"""Also the name of a file of a host."""
RUNTIME = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}")
"""Versions of vitsd-runtime."""
_PACKAGE = re.compile(r"[A-Za-z]\w{0,99}")
INDEX = "index.json"
"""In a host's folder."""
FILES = "files"
"""In a host's folder: files that are named after their SHA-256."""
ENDINGS = {"tflite": ".tflite", "onnx": ".onnx"}
"""Of the formats that can be released: those of one file."""


@dataclass(frozen=True)
class ReleasedFile:
    """One model file of a release."""

    name: str
    """As it lay beside the release when that was signed; no path."""
    size: int
    """Bytes."""
    sha256: str
    format: str
    """One of :data:`ENDINGS`."""
    engines: tuple[str, ...]
    """Python packages that run it."""
    schema: int
    """Version of its spec."""


@dataclass(frozen=True)
class Release:
    """One version of a model, in one or several files of which a device takes the first it can."""

    channel: str
    version: int
    """Counts up."""
    created: int
    """Seconds since 1970."""
    files: tuple[ReleasedFile, ...]
    runtime: str = "0"
    """The lowest version of vitsd-runtime that may run it."""


@dataclass(frozen=True)
class Offer:
    """A release in an index."""

    release: Release
    rollout: float
    """Percent of the devices that are to take it."""
    sealed: Mapping[str, Any]
    """The release as its publisher signed it."""


@dataclass(frozen=True)
class Index:
    """What a host offers to the devices of a channel."""

    channel: str
    serial: int
    """Counts up with every index of a channel, so that an old one is noticed; a new statement of
    keys may begin anew."""
    created: int
    expires: int
    """Seconds since 1970, as ``created``."""
    offers: tuple[Offer, ...]
    """The newest first."""
    keys_version: int
    """Of the statement of keys that came along; 0 without."""


@dataclass(frozen=True)
class Keys:
    """Who may sign what, for a time."""

    version: int
    expires: int
    release: tuple[bytes, ...]
    """Public keys that may sign releases."""
    index: tuple[bytes, ...]
    """Public keys that may sign indexes."""


def read_index(envelope: Any, roots: Collection[bytes], now: float) -> Index:
    """The index in an envelope, with all that it offers, each signed by who may.

    Args:
        envelope: of JSON's types, from the network.
        roots: public keys that sign everything, or say in ``keys`` who does.
        now: seconds since 1970.

    Raises:
        VitsdError: something is not signed as it must be, unusable, or has expired.
    """
    keys = None
    if isinstance(envelope, dict) and envelope.get("keys") is not None:
        keys = read_keys(envelope["keys"], roots)
        _check_age("statement of keys", keys.expires, now)
    content = unseal(envelope, "index", keys.index if keys else roots)
    index = _parsed("index", _index, content, keys, roots)
    _check_age("index", index.expires, now)
    return index


def read_release(envelope: Any, keys: Collection[bytes]) -> Release:
    """The release in an envelope.

    Raises:
        VitsdError: none of the keys has signed it, or it is unusable.
    """
    return _parsed("release", _release, unseal(envelope, "release", keys))


def read_keys(envelope: Any, roots: Collection[bytes]) -> Keys:
    """The statement of keys in an envelope, whatever its age.

    Raises:
        VitsdError: none of the keys has signed it, or it is unusable.
    """
    return _parsed("statement of keys", _keys, unseal(envelope, "keys", roots))


def to_dict(statement: Any) -> dict[str, Any]:
    """A release's content, of JSON's types."""
    return dataclasses.asdict(statement)


def _parsed(what: str, parse: Callable[..., T], *content: Any) -> T:
    try:
        return parse(*content)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, VitsdError):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else printable(error)
        raise VitsdError(f"The signed {what} is unusable: {reason}.") from error


def _index(content: dict[str, Any], keys: Keys | None, roots: Collection[bytes]) -> Index:
    channel = _text(content, "channel", CHANNEL)
    offers = []
    for offer in _listed(content, "offers"):
        release = read_release(offer["release"], keys.release if keys else roots)
        if release.channel != channel:
            raise ValueError(f"it offers a release of {release.channel}, and is {channel}'s")
        rollout = offer["rollout"]
        if type(rollout) not in (int, float) or not 0 <= rollout <= 100:
            raise ValueError("rollout must be from 0 to 100")
        offers.append(Offer(release, float(rollout), offer["release"]))
    offers.sort(key=lambda offer: -offer.release.version)
    if len({offer.release.version for offer in offers}) < len(offers):
        raise ValueError("it offers a version twice")
    return Index(
        channel,
        _whole(content, "serial", 1, MAX_VERSION),
        _whole(content, "created", 0, _MAX_TIME),
        _whole(content, "expires", 0, _MAX_TIME),
        tuple(offers),
        keys.version if keys else 0,
    )


def _release(content: dict[str, Any]) -> Release:
    return Release(
        _text(content, "channel", CHANNEL),
        _whole(content, "version", 1, MAX_VERSION),
        _whole(content, "created", 0, _MAX_TIME),
        tuple(map(_file, _listed(content, "files"))),
        _text(content, "runtime", RUNTIME),
    )


def _file(content: dict[str, Any]) -> ReleasedFile:
    # A format that is not known yet is another device's.
    return ReleasedFile(
        _text(content, "name", FILE_NAME),
        _whole(content, "size", 1, MAX_MODEL_BYTES),
        _text(content, "sha256", SHA256),
        _text(content, "format", _PACKAGE),
        tuple(_matching("engines", name, _PACKAGE) for name in _listed(content, "engines")),
        _whole(content, "schema", 1, MAX_VERSION),
    )


def _keys(content: dict[str, Any]) -> Keys:
    return Keys(
        _whole(content, "version", 1, MAX_VERSION),
        _whole(content, "expires", 0, _MAX_TIME),
        tuple(map(decode, _listed(content, "release"))),
        tuple(map(decode, _listed(content, "index"))),
    )


def _check_age(what: str, expires: int, now: float) -> None:
    if now > expires:
        raise VitsdError(
            f"The {what} expired {_days(now - expires)} ago by this machine's clock: its publisher "
            "signs it anew, unless somebody holds newer ones back; or the clock is wrong."
        )


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days"


def _whole(content: dict[str, Any], name: str, low: int, high: int) -> int:
    value = content[name]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low:,} to {high:,}")
    return int(value)


def _text(content: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    return _matching(name, content[name], pattern)


def _matching(name: str, value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} {printable(value, 60)!r} is none")
    return value


def _listed(content: dict[str, Any], name: str) -> list[Any]:
    value = content[name]
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= _MAX_LISTED:
        raise ValueError(f"{name} must be a list of 1 to {_MAX_LISTED}")
    return list(value)
