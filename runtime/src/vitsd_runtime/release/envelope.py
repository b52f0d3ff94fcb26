"""Signed statements: DSSE envelopes (Dead Simple Signing Envelope 1.0), as in-toto uses them.

What is signed are the payload's bytes with its type, so nothing needs to be brought to a canonical
form, and a statement of one type never passes as another.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping
from typing import Any

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.release.keys import decode_base64, is_signed, key_id, public_of, sign
from vitsd_runtime.system.json_files import parse_json

MAX_BYTES = 2**20
"""Of a statement, and of the file that holds it."""
_TYPE = "application/vnd.vitsd.{}+json"
_MAX_SIGNATURES = 16


def seal(kind: str, content: Mapping[str, Any], seed: bytes) -> dict[str, Any]:
    """Sign a statement.

    Args:
        kind: what it is, e.g. ``release``.
        content: of JSON's types.
        seed: the private key.

    Returns:
        The envelope, of JSON's types.
    """
    payload = json.dumps(content, indent=1).encode()
    type_ = _TYPE.format(kind)
    return {
        "payloadType": type_,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": key_id(public_of(seed)),
                "sig": base64.b64encode(sign(seed, encoding(type_, payload))).decode(),
            }
        ],
    }


def unseal(envelope: Any, kind: str, keys: Collection[bytes]) -> dict[str, Any]:
    """The statement in an envelope that one of some keys has signed.

    Args:
        envelope: of JSON's types; anyone's.
        kind: of the statement.
        keys: public ones.

    Raises:
        VitsdError: it is no such envelope, or none of the keys has signed it.
    """
    type_ = _TYPE.format(kind)
    try:
        if envelope["payloadType"] != type_:
            raise ValueError(f"its type is not {type_}")
        payload = decode_base64(envelope["payload"])
        signatures = [
            (decode_base64(signature["sig"]), signature.get("keyid"))
            for signature in envelope["signatures"][:_MAX_SIGNATURES]
        ]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        reason = error if type(error) is ValueError else "it has not the parts of an envelope"
        raise VitsdError(f"This is no signed {kind}: {reason}.") from error
    known = {key_id(key): key for key in keys}
    message = encoding(type_, payload)
    if not any(
        hint in (None, "", name) and is_signed(key, message, signature)
        for signature, hint in signatures
        for name, key in known.items()
    ):
        names = ", ".join(sorted(known))
        raise VitsdError(f"No key that is trusted for it has signed the {kind} ({names}).")
    try:
        content = parse_json(payload, MAX_BYTES)
    except ValueError as error:
        raise VitsdError(f"The signed {kind} can't be read: {error}.") from error
    if not isinstance(content, dict):
        raise VitsdError(f"The signed {kind} is no JSON object.")
    return content


def encoding(type_: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    name = type_.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)
