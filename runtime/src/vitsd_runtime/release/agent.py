"""Bring a device to the newest release that is for it, and back if that does not work."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import vitsd_runtime
from vitsd_runtime.engines.load import installed_package, packages_of
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats.archive import digest_file
from vitsd_runtime.release import envelope
from vitsd_runtime.release.download import Host
from vitsd_runtime.release.rollout import choose
from vitsd_runtime.release.statements import (
    CHANNEL,
    ENDINGS,
    FILES,
    INDEX,
    Index,
    Release,
    ReleasedFile,
    read_index,
)
from vitsd_runtime.release.store import Installed, Store
from vitsd_runtime.release.trial import try_model
from vitsd_runtime.spec.model_spec import SCHEMA_VERSION
from vitsd_runtime.system.json_files import parse_json
from vitsd_runtime.system.text import printable, why
from vitsd_runtime.types import Format

_log = logging.getLogger(__name__)
_CHECK_SECONDS = 120
_MAX_NAME = 200
_BEHIND = 86400
"""Seconds by which a clock may be behind the publisher's without a word."""


@dataclass(frozen=True)
class Policy:
    """What an agent accepts."""

    keys: Collection[bytes]
    """Public keys, of which one has signed everything, or the statement of who may sign."""
    channel: str | None = None
    """The only one; None: that of the first index."""
    allow_downgrade: bool = False
    """Also take a version that is older than one that passed every check here."""
    device_id: str | None = None
    """Name of this device in roll-outs; None: a random one, which is kept."""
    retry: bool = False
    """Also try versions that failed here."""
    check: str | None = None
    """Program with arguments: exit code 0 if what uses the model is well, after the switch."""
    try_model: Callable[[Path], None] = try_model
    """Raises VitsdError if a model does not work here."""


def pull(host: Host, store: Store, policy: Policy) -> str:
    """Install what a host offers, if it is newer.

    Args:
        host: of the channel.
        store: of this device, entered.
        policy: what is accepted.

    Returns:
        What was done, in one line.

    Raises:
        UsageError: the policy can't work.
        VitsdError: it failed; what was in use is in use, whole. The state says why.
    """
    with _noted(store):
        _check_policy(policy)
        store.state.device = policy.device_id or store.state.device
        _settle(store, policy)
        index = _read_index(host, store, policy)
        found = _choose(index, store, policy)
        if isinstance(found, str):
            return found
        release, file = found
        current = store.current()
        new = _fetch(host, store, release, file)
        _try(store, new, policy)
        store.switch(new)
        store.state.last_change = int(time.time())
        _confirm(store, new, policy)
        before = f", instead of {current.version}" if current else ""
        return f"{release.channel}: version {release.version} is in use now{before}."


def _check_policy(policy: Policy) -> None:
    """Raise UsageError for what would else be noticed only after a switch, or never."""
    if policy.channel is not None and not CHANNEL.fullmatch(policy.channel):
        raise UsageError(f"`channel` is the name of none: {printable(policy.channel)!r}.")
    device = policy.device_id
    if device is not None and not (device.isprintable() and 0 < len(device) <= _MAX_NAME):
        raise UsageError(f"`device_id` must be 1 to {_MAX_NAME} characters that can be printed.")
    if policy.check is not None:
        try:
            program = shutil.which(shlex.split(policy.check)[0])
        except (ValueError, IndexError):  # a quotation without an end; nothing
            program = None
        if program is None:
            raise UsageError(f"`check` is no program here: {printable(policy.check)!r}.")


def _settle(store: Store, policy: Policy) -> None:
    """Confirm the version in use, or go back to the one before.

    Also after a power cut between the switch and its confirmation.

    Raises:
        VitsdError: it failed, and the one before is in use again.
    """
    current = store.current()
    if current is not None:
        store.announce()
        if not current.confirmed:
            _try(store, current, policy)
            _confirm(store, current, policy)
    store.tidy()


def rollback(store: Store) -> str:
    """Put the version to use that was in use before; the one that is is not taken again.

    Returns:
        What was done, in one line.

    Raises:
        UsageError: there is none.
    """
    current, previous = store.current(), store.previous()
    if current is None or previous is None or not previous.intact:
        raise UsageError(f"{printable(store.folder)} holds no earlier version to go back to.")
    with _noted(store):
        _give_up(store, current, "rolled back by hand")
    return f"Version {previous.version} is in use again, instead of {current.version}."


@contextlib.contextmanager
def _noted(store: Store) -> Iterator[None]:
    """Keep the state, and why it failed if it did."""
    store.state.last_error = ""
    try:
        yield
    except (VitsdError, OSError) as error:
        store.state.last_error = str(error) if isinstance(error, VitsdError) else why(error)
        with contextlib.suppress(OSError):  # the disk is full
            store.save()
        raise
    store.save()


def _read_index(host: Host, store: Store, policy: Policy) -> Index:
    state, now = store.state, time.time()
    content = host.read(INDEX, envelope.MAX_BYTES)
    try:
        values = parse_json(content, envelope.MAX_BYTES)
    except ValueError as error:
        raise VitsdError(
            f"{INDEX} is no index: {error}. Does another host answer, as where one must log in?"
        ) from error
    index = read_index(values, policy.keys, now)
    channel = policy.channel or state.channel or index.channel
    if index.channel != channel or state.channel not in ("", channel):
        raise VitsdError(
            f"The index is that of {index.channel}; this device follows "
            f"{printable(state.channel or channel)}."
        )
    # Where a stolen key has counted up to the end, new keys begin anew.
    if (index.keys_version, index.serial) < (state.keys_version, state.serial):
        raise VitsdError(
            f"The index is an old one (serial {index.serial}, keys {index.keys_version}; seen were "
            f"{state.serial} and {state.keys_version}): somebody replays it, or the publisher lost "
            "count."
        )
    if now < index.created - _BEHIND:
        _log.warning(
            "This machine's clock (%s) is behind the index: if that has expired can't be told.",
            time.strftime("%Y-%m-%d"),
        )
    state.channel, state.serial, state.keys_version = channel, index.serial, index.keys_version
    state.last_check = int(now)
    store.save()
    return index


def _choose(index: Index, store: Store, policy: Policy) -> tuple[Release, ReleasedFile] | str:
    """What is to be installed, or why nothing is."""
    state, current = store.state, store.current()
    reasons: list[str] = []

    def suits(release: Release) -> bool:
        refused = "" if policy.retry else state.refused.get(str(release.version), "")
        if reason := printable(refused) or _unsuitable(release):
            reasons.append(f"version {release.version}: {reason}")
        return not reason

    offer = choose(index.offers, state.device, suits)
    more = "".join(f" ({reason})" for reason in reasons)
    if offer is None:
        return f"{index.channel}: nothing here is for this device{more}."
    release = offer.release
    if current is not None and current.version == release.version:
        if current.sha256 not in [each.sha256 for each in release.files]:
            raise VitsdError(
                f"Version {release.version} is another one than the version {release.version} that "
                "is in use: the publisher must sign it under a new one."
            )
        if current.intact:
            return f"{index.channel}: version {current.version} is up to date{more}."
        _log.warning("Version %s is damaged here, and comes anew.", current.version)
    elif release.version < state.highest and not policy.allow_downgrade:
        return (
            f"{index.channel}: the host offers version {release.version}, which is older than "
            f"{state.highest}: not taken without `allow_downgrade`{more}."
        )
    return release, _suitable_files(release)[0]


def _suitable_files(release: Release) -> list[ReleasedFile]:
    """The files of a release that an engine runs here."""
    return [
        file
        for file in release.files
        if file.format in ENDINGS
        and file.schema <= SCHEMA_VERSION
        and installed_package(cast(Format, file.format)) in file.engines
    ]


def _unsuitable(release: Release) -> str:
    """Why a release can't run here; empty if it can."""
    if _numbers(release.runtime) > _numbers(vitsd_runtime.__version__):
        return f"it needs vitsd-runtime {release.runtime}, this is {vitsd_runtime.__version__}"
    if not _suitable_files(release):
        needed = sorted({name for file in release.files for name in file.engines})
        known = {name for format in ENDINGS for name in packages_of(cast(Format, format))}
        return f"it needs one of {', '.join(n for n in needed if n in known) or 'other engines'}"
    return ""


def _fetch(host: Host, store: Store, release: Release, file: ReleasedFile) -> Installed:
    begun = True
    while begun:
        part = store.part(file)
        begun = part.exists()
        try:
            host.fetch(f"{FILES}/{file.sha256}", part, file.size)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part)  # the device needs its disk
            error.filename = str(store.folder)
            raise
        if digest_file(part) == (file.size, file.sha256):
            return store.add(release, file, part)
        os.unlink(part)  # and again from its beginning, which was from before a power cut
    raise VitsdError(
        f"What the host sent for version {release.version} is not what was signed: its SHA-256 is "
        "another."
    )


def _try(store: Store, installed: Installed, policy: Policy) -> None:
    try:
        if not installed.intact:
            raise VitsdError("its file is damaged")
        policy.try_model(installed.path)
    except VitsdError as error:
        raise _give_up(store, installed, f"it does not work here: {error}") from error


def _confirm(store: Store, installed: Installed, policy: Policy) -> None:
    """Ask the programs that use the model, if they are to be asked."""
    problem = _check(policy.check, installed) if policy.check is not None else ""
    if problem:
        raise _give_up(store, installed, f"`check` failed: {problem}")
    store.confirm(installed)
    store.tidy()


def _check(command: str, installed: Installed) -> str:
    """What is wrong; empty if nothing is."""
    try:
        done = subprocess.run(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard error: what it says is no answer of ours
            timeout=_CHECK_SECONDS,
            env={**os.environ, "VITSD_MODEL": str(installed.path)},
        )
    except subprocess.TimeoutExpired:
        return f"no end within {_CHECK_SECONDS} seconds"
    except OSError as error:
        return why(error)
    return f"exit code {done.returncode}" if done.returncode else ""


def _give_up(store: Store, installed: Installed, reason: str) -> VitsdError:
    """Go back, if the version is in use, and never take it again; returns the error to raise."""
    current, previous = store.current(), store.previous()
    store.refuse(installed, reason)
    told = ""
    if current == installed:
        previous = previous if previous and previous.intact else None
        store.switch(previous)
        told = f" Version {previous.version} is in use again." if previous else ""
        store.state.last_change = int(time.time())
    store.tidy()
    return VitsdError(f"Version {installed.version} is given up: {reason}.{told}")


def _numbers(version: str) -> list[int]:
    """Of ``1.2.3``, up to the first part that is none; ``1.2.0`` is ``1.2``."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers
