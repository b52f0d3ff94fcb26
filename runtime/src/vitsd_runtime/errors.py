"""The errors that a person can act on. Command-line tools print their message without a traceback."""

from __future__ import annotations


class VitsdError(Exception):
    """Something failed for a reason that the message explains. Exit code 1."""

    exit_code = 1


class UsageError(VitsdError):
    """The request itself can't be right: a wrong option, path or value. Exit code 2."""

    exit_code = 2


def first_line(error: Exception) -> str:
    """What another library's error says, in one line of at most 300 characters; its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
