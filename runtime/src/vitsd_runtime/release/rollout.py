"""Which release a device takes: the rule of staged roll-outs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from vitsd_runtime.release.statements import Offer, Release


def takes_part(device: str, channel: str, version: int, rollout: float) -> bool:
    """Whether a device is among the ``rollout`` percent that are to take a version.

    It depends on nothing else: a larger percentage keeps those that were in, and every version
    begins with other devices, so nobody is always the first.
    """
    digest = hashlib.sha256(f"{channel}\n{version}\n{device}".encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") < rollout / 100 * 2**64


def choose(
    offers: Iterable[Offer], device: str, suits: Callable[[Release], bool] = lambda release: True
) -> Offer | None:
    """The newest release that is for this device, and suits it; None if there is none.

    Args:
        offers: of an index, the newest first.
        device: its name.
        suits: whether the device can take a release.
    """
    for offer in offers:
        release = offer.release
        if takes_part(device, release.channel, release.version, offer.rollout) and suits(release):
            return offer
    return None
