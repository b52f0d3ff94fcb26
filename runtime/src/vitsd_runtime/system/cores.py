"""Cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = "sys/fs/cgroup"


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


def usable_cores(root: Path = Path("/")) -> int:
    """Threads worth starting: the physical cores, or less where a container may use less."""
    quota = cpu_quota(root)
    cores = physical_cores(root)
    # Half a core more is worth a thread: it is measured before it is used.
    return cores if quota is None else min(cores, math.ceil(quota))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPU time per time that a container may use, in cores; None without a limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and, for version 1,
    https://docs.kernel.org/scheduler/sched-bwc.html. Every group above counts too.
    """
    quotas = []
    for folder in _groups(root):
        limit, _, period = (read_text(folder / "cpu.max") or "").partition(" ")
        if not limit:
            limit = read_text(folder / "cpu.cfs_quota_us") or ""
            period = read_text(folder / "cpu.cfs_period_us") or ""
        if limit.isdecimal() and period.isdecimal() and int(limit) and int(period):  # not max, -1
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, and of all above them."""
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container may see its own group as the root, under the name that it has outside.
        inside = PurePosixPath(group.lstrip("/"))
        if ".." in inside.parts:
            inside = PurePosixPath()
        for mount in ("", "unified") if not controllers else (controllers, "cpu"):
            for level in (inside, *inside.parents):
                yield root / _CGROUPS / mount / level


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
