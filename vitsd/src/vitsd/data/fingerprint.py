"""Which images a model was trained on, in 16 kB: so that nobody takes them for new ones."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from vitsd.data.identity import Identities
from vitsd_runtime.spec.limits import MAX_FINGERPRINT_HASHES

_BYTES = 6
"""Of a hash: 48 bits of the identity. Two of a million images share one with a chance of 0.2 %."""
_DROPPED_BITS = np.uint64(64 - 8 * _BYTES)


@dataclass(frozen=True)
class Overlap:
    """How many of some images were trained on."""

    images: int
    exact: bool
    """Counted; else estimated from those images whose hashes the fingerprint reaches."""


@dataclass(frozen=True)
class Fingerprint:
    """The smallest hashes of the images that were trained on (a bottom-k sketch).

    All of them for small sets. For larger ones they are a random sample of the images, and of other
    images those with hashes in the same range are one too: the share of them that is in the sketch
    estimates the share that was trained on. (E. Cohen, H. Kaplan, "Summarizing data using bottom-k
    sketches", PODC 2007.)
    """

    hashes: Identities
    """Ascending, at most :data:`MAX_FINGERPRINT_HASHES`."""

    @classmethod
    def of(cls, identities: Identities) -> Fingerprint:
        """Of the images with these identities."""
        return cls(np.unique(identities >> _DROPPED_BITS)[:MAX_FINGERPRINT_HASHES])

    @classmethod
    def from_text(cls, text: str) -> Fingerprint:
        """The inverse of :meth:`to_text`; :class:`vitsd_runtime.Provenance` has checked it."""
        rows = np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, _BYTES)
        padded = np.zeros((len(rows), 8), np.uint8)
        padded[:, -_BYTES:] = rows
        return cls(np.unique(padded.view(">u8").astype(np.uint64)))

    def to_text(self) -> str:
        """Base64 of the hashes, six bytes each, big-endian."""
        rows = self.hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
        return base64.b64encode(rows[:, -_BYTES:].tobytes()).decode("ascii")

    def union(self, other: Fingerprint) -> Fingerprint:
        """Of what either was made of."""
        hashes = np.union1d(self.hashes, other.hashes)
        return Fingerprint(hashes[:MAX_FINGERPRINT_HASHES])

    def overlap(self, identities: Identities) -> Overlap | None:
        """How many of the images with these identities were trained on.

        None if the fingerprint can't tell: none of them is in its range.
        """
        hashes = identities >> _DROPPED_BITS
        exact = len(self.hashes) < MAX_FINGERPRINT_HASHES
        if not exact:
            hashes = hashes[hashes <= self.hashes[-1]]
        if len(hashes) == 0:
            return None
        found = int(np.isin(hashes, self.hashes).sum())
        return Overlap(round(found * len(identities) / len(hashes)), exact)
