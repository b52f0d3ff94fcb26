"""Ed25519 keys in PEM files, as OpenSSL writes and reads them (RFC 8410), and signatures."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vitsd_runtime.engines.base import import_optional
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.files import write_text
from vitsd_runtime.system.text import printable, why
from vitsd_runtime.types import PathLike

_log = logging.getLogger(__name__)
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----\s(.*?)-----END \1-----", re.S)
_KINDS = {
    "PRIVATE KEY": bytes.fromhex("302e020100300506032b657004220420"),
    "PUBLIC KEY": bytes.fromhex("302a300506032b6570032100"),
}
"""What precedes the 32 bytes of an Ed25519 key in DER."""
_KEY_BYTES = 32
_MAX_FILE = 2**16


def generate(path: PathLike) -> Path:
    """Make a key pair: the private key at ``path``, for its owner alone; returns the public one's.

    Raises:
        UsageError: one of the files is there already, or ``path`` is no name of a file.
        VitsdError: PyNaCl is not installed.
    """
    private = Path(path)
    if not private.name:
        raise UsageError(f"{printable(path)!r} is no name of a file.")
    public = private.with_name(f"{private.name}.pub")
    for file in (private, public):
        if os.path.lexists(file):
            raise UsageError(f"{printable(file)} is there already, and keys are not overwritten.")
    seed = os.urandom(_KEY_BYTES)
    public_key = public_of(seed)
    with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        try:
            opened.write(_pem("PRIVATE KEY", seed))
            opened.flush()
            os.fsync(opened.fileno())
            write_text(public, _pem("PUBLIC KEY", public_key))
        except BaseException:
            os.unlink(private)  # half a pair would be in the way
            raise
    return public


def read_private(path: PathLike) -> bytes:
    """A private key, 32 bytes.

    Raises:
        UsageError: the file holds no such key, an encrypted one, or one of another kind.
    """
    text = _read(path)
    if mode := os.stat(path).st_mode & 0o077:
        _log.warning("%s can be read by others (mode %o): chmod 600 it.", printable(path), mode)
    keys = _keys(path, text, "PRIVATE KEY")
    if len(keys) != 1:
        raise UsageError(f"{printable(path)} holds {len(keys)} private keys instead of one.")
    return keys[0]


def read_public(paths: Iterable[PathLike]) -> list[bytes]:
    """All public keys of some files, 32 bytes each.

    Raises:
        UsageError: a file holds something else, or nothing.
    """
    found: list[bytes] = []
    for path in paths:
        text = _read(path)
        if "PRIVATE KEY" in text:
            raise UsageError(
                f"{printable(path)} holds a private key, which belongs to the publisher alone: "
                "name the public one (.pub)."
            )
        keys = _keys(path, text, "PUBLIC KEY")
        if not keys:
            raise UsageError(f"{printable(path)} holds no public key in PEM.")
        found += keys
    return found


def encode(key: bytes) -> str:
    """Base64 of a public key, for JSON."""
    return base64.b64encode(key).decode()


def decode(text: Any) -> bytes:
    """The inverse of :func:`encode`.

    Raises:
        ValueError: it is no key.
    """
    key = decode_base64(text)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a public key has {_KEY_BYTES} bytes, not {len(key)}")
    return key


def decode_base64(text: Any) -> bytes:
    """Bytes of base64, in either alphabet, as DSSE has it.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(text, str):
        raise ValueError("base64 must be text")
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error as error:
        raise ValueError("there is something else than base64") from error


def key_id(key: bytes) -> str:
    """The name of a public key: the beginning of its SHA-256."""
    return hashlib.sha256(key).hexdigest()[:16]


def public_of(seed: bytes) -> bytes:
    """The public key of a private one."""
    return bytes(_nacl().SigningKey(seed).verify_key)


def sign(seed: bytes, message: bytes) -> bytes:
    """An Ed25519 signature (RFC 8032), 64 bytes."""
    return bytes(_nacl().SigningKey(seed).sign(message).signature)


def is_signed(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is this key's, for this message."""
    nacl = _nacl()
    try:
        nacl.VerifyKey(key).verify(message, signature)
    except (import_optional("nacl.exceptions").CryptoError, ValueError):  # of another length
        return False
    return True


def _nacl() -> Any:
    found = import_optional("nacl.signing")
    if found is None:
        raise VitsdError('PyNaCl is not installed: pip install "vitsd-runtime[release]".')
    return found


def _read(path: PathLike) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_FILE).decode("ascii", "replace")
    except (OSError, ValueError) as error:
        raise UsageError(f"The key {printable(path)} can't be read: {why(error)}.") from error


def _keys(path: PathLike, text: str, kind: str) -> list[bytes]:
    keys = []
    for found, body in _PEM.findall(text):
        if found != kind:
            continue
        try:
            der = base64.b64decode("".join(body.split()), validate=True)
        except binascii.Error as error:
            raise UsageError(f"{printable(path)} is damaged: no base64.") from error
        head, key = der[:-_KEY_BYTES], der[-_KEY_BYTES:]
        if head != _KINDS[kind]:
            raise UsageError(
                f"{printable(path)} holds a key of another kind than Ed25519: vitsd-release keygen "
                "and `openssl genpkey -algorithm ed25519` make those."
            )
        keys.append(key)
    return keys


def _pem(kind: str, key: bytes) -> str:
    body = base64.b64encode(_KINDS[kind] + key).decode()
    return f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"
