"""The errors that a person can act on; commands print their message without a traceback."""

from __future__ import annotations


class VitsdError(Exception):
    """Something failed for a reason that the message explains. Exit code 1."""

    exit_code = 1


class UsageError(VitsdError, ValueError):
    """The request itself can't be right: a wrong option, path or value. Exit code 2."""

    exit_code = 2
