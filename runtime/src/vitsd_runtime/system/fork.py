"""What only the process that made it may use: locks, and what has threads of its own.

A forked child has none of its parent's threads, and a lock that one of them held stays locked.
Servers fork after loading: gunicorn and uWSGI with preloading, multiprocessing's ``fork``.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Something that is opened now, and anew in each forked process that asks for it.

    Args:
        open_: opens it. May raise, also in a child.
    """

    def __init__(self, open_: Callable[[], T]) -> None:
        self._open = open_
        self._opened = (os.getpid(), open_())
        _all.add(self)

    def get(self) -> T:
        """What belongs to this process."""
        pid, value = self._opened
        # The hook below would do, but uWSGI forks without calling Python's hooks.
        if pid != os.getpid():
            never_destroy(self._opened)
            # Two threads may both come here: each gets one that works, and the last one stays.
            value = self._open()
            self._opened = (os.getpid(), value)
        return value

    def inherit(self) -> None:
        """In a new child: nothing here is to be destroyed."""
        never_destroy(self._opened)


def never_destroy(inherited: object) -> None:
    """Keep what the parent opened for ever: its destructor would wait for the parent's threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


_all: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()


def _inherit_all() -> None:
    for each in list(_all):
        each.inherit()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_inherit_all)
