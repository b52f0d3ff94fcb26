"""Shares of a job for several machines: which images are whose."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.text import printable

_MAX_COUNT = 1_000_000


@dataclass(frozen=True)
class Shard:
    """One of ``count`` shares, together all images, each in one of them.

    Which one depends on an image's name and ``count`` alone: images that are added or removed move
    no others.
    """

    number: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``I/N``.

        Raises:
            UsageError: it is something else.
        """
        found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count <= _MAX_COUNT:
            advice = "; where they are counted from 0, add 1" if text.startswith("0/") else ""
            raise UsageError(
                f"must be I/N, the I-th of N shards, as 1/4 to 4/4{advice}; got "
                f"{printable(text, 40)!r}"
            )
        return cls(number, count)

    def holds(self, name: str) -> bool:
        """Whether an image is in this share.

        Args:
            name: its path in the folder that is classified, with ``/``; the shard is the first 8
                bytes of its SHA-256, as a big-endian number, modulo ``count``.
        """
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
