"""Refuse data that this machine can't hold, before memory is taken."""

from __future__ import annotations

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.machine import describe_machine

_USABLE = 3 / 4
_UNKNOWN_MB = 8000
"""What is assumed of a system that does not say how much it has."""


def check_memory(name: str, needed: int, instead: str = "") -> None:
    """Raise VitsdError if ``name`` takes more bytes than three quarters of this machine's.

    Args:
        name: of the data.
        needed: bytes.
        instead: a sentence that says what to do then.
    """
    if needed > describe_machine().get("memory_mb", _UNKNOWN_MB) * 10**6 * _USABLE:
        refusal = f"{name} takes {needed:,} bytes, more than this machine can hold."
        raise VitsdError(f"{refusal} {instead}".rstrip())
