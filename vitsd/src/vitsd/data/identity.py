"""What an image is, whatever it is called and wherever it lies: a hash of its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitsd.data.stored import Images
from vitsd_runtime.formats.archive import digest_file

Identities = npt.NDArray[np.uint64]
"""``(n,)``, the first 64 bits of SHA-256 of each image's content."""


def file_identity(path: Path) -> int:
    """Of an image in a file: of the file's bytes.

    Raises:
        OSError: the file can't be read.
    """
    _, digest = digest_file(path)
    return _first_64_bits(bytes.fromhex(digest))


def pixel_identities(images: Images) -> Identities:
    """Of images in an array ``(n, height, width, channels)``: of their pixels."""
    digests = (hashlib.sha256(image.tobytes()).digest() for image in images)
    return np.fromiter(map(_first_64_bits, digests), np.uint64, len(images))


def uniform_draws(identities: Identities, purpose: str) -> npt.NDArray[np.float64]:
    """For each image a number in [0, 1) that only its identity and ``purpose`` decide.

    Numbers for different purposes are independent.
    """
    salt = purpose.encode()
    content = identities.astype(">u8").tobytes()
    digests = (
        hashlib.sha256(salt + content[start : start + 8]).digest()
        for start in range(0, len(content), 8)
    )
    draws = np.fromiter(map(_first_64_bits, digests), np.uint64, len(identities))
    return (draws >> np.uint64(11)) / 2.0**53  # as many bits as a float64 holds


def _first_64_bits(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")
