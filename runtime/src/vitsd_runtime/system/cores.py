"""Cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Logical cores that this process may run on."""
    return len(_affinity()) or os.cpu_count() or 1


def physical_cores(root: Path = Path("/")) -> int:
    """Cores that this process may run on; hyper-threads of one core count once."""
    # Not core_id, which starts anew in every cluster of an Arm processor.
    names = (
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in _affinity()
    )
    return len({read_text(root / name) for name in names} - {None}) or available_cores()


def _affinity() -> set[int]:
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return set()


def read_text(path: Path) -> str | None:
    """The text of a file under /proc or /sys; None if there is none or it is empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n") or None
    except OSError:
        return None
