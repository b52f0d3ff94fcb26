"""What the machine is and how warm it runs, for saying where a number was measured.

Reads /proc and /sys; values that are not available are left out.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from vitsd_runtime.system.cores import available_cores, cpu_quota, physical_cores, read_text

_ARM_CORES = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD40: "Neoverse-V1",
    0xD49: "Neoverse-N2",
    0xD4F: "Neoverse-V2",
    0xC07: "Cortex-A7",
}
"""Arm's part numbers (Main ID Register; https://developer.arm.com): its kernel gives no names."""
_THROTTLED = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "under-voltage since boot",
    17: "clock capped since boot",
    18: "throttled since boot",
    19: "soft temperature limit since boot",
}
"""Bits of a Raspberry Pi's ``get_throttled``.

https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
"""


def describe_machine(root: Path = Path("/")) -> dict[str, Any]:
    """CPU, cores, memory (in MB of 10^6 bytes), system and Python, as JSON-serializable values.

    Where they are known, also ``cpu_quota`` (cores' worth of time that a container may use),
    ``board`` (the device tree's name of it), ``governor`` and ``max_mhz`` of the first core's
    clock, and ``emulated`` (true if these are not the CPU's own instructions).
    """
    info = _cpu_info(root)
    clock = root / "sys/devices/system/cpu/cpu0/cpufreq"
    known = {
        "cpu": _cpu_name(info),
        "board": read_text(root / "proc/device-tree/model"),
        "architecture": platform.machine(),
        "cores": available_cores(),
        "physical_cores": physical_cores(root),
        "cpu_quota": cpu_quota(root),
        "governor": read_text(clock / "scaling_governor"),
        "max_mhz": _scaled(clock / "cpuinfo_max_freq", 1e-3),
        "memory_mb": _memory_mb(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "emulated": (platform.machine() == "aarch64" and _is_emulated(info)) or None,
    }
    return {name: value for name, value in known.items() if value is not None}


def thermal_state(root: Path = Path("/")) -> dict[str, Any]:
    """How warm and how fast the CPU is now, as far as it is known.

    ``temperature_c``, ``clock_mhz``; ``throttled``: what holds the clock back, and on a Raspberry
    Pi what has since it was started (an empty list means nothing); ``throttle_events``: how often
    the cores of an x86 machine were slowed for heat since then.
    """
    zones = root / "sys/class/thermal"
    temperatures = [
        _scaled(zone / "temp", 1e-3)
        for zone in (sorted(zones.glob("thermal_zone*")) if zones.is_dir() else ())
        if any(word in (read_text(zone / "type") or "") for word in ("cpu", "soc", "pkg"))
    ]
    known = {
        "temperature_c": max((t for t in temperatures if t is not None), default=None),
        "clock_mhz": _scaled(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1e-3),
        "throttled": _throttled(root),
        "throttle_events": _throttle_events(root),
    }
    return {name: value for name, value in known.items() if value is not None}


def format_machine(machine: dict[str, Any]) -> str:
    """One line of :func:`describe_machine`; what is None counts as not known."""
    cores = f"{machine['cores']} cores"
    if machine["physical_cores"] != machine["cores"]:
        cores += f" ({machine['physical_cores']} physical)"
    known = {name for name, value in machine.items() if value is not None}
    if "cpu_quota" in known:
        cores += f", of which it may use {machine['cpu_quota']:g}"
    parts = [machine["board"]] if "board" in known else []
    parts += [machine["cpu"], cores]
    parts += [f"at most {machine['max_mhz']:.0f} MHz"] if "max_mhz" in known else []
    parts += [f"governor {machine['governor']}"] if "governor" in known else []
    parts += [f"{machine['memory_mb']} MB"] if "memory_mb" in known else []
    return ", ".join([*parts, machine["system"], f"Python {machine['python']}"])


def format_thermal(state: dict[str, Any]) -> str:
    """One phrase of :func:`thermal_state`; empty if nothing is known. None is not known."""
    known = {name for name, value in state.items() if value is not None}
    parts = [f"{state['temperature_c']:.0f} °C"] if "temperature_c" in known else []
    parts += [f"{state['clock_mhz']:.0f} MHz"] if "clock_mhz" in known else []
    parts += [", ".join(state["throttled"]) or "not throttled"] if "throttled" in known else []
    if state.get("throttle_events"):
        parts.append(f"slowed for heat {state['throttle_events']} times since boot")
    return ", ".join(parts)


def peak_rss_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (10^6 bytes); None if unknown."""
    try:
        # Not getrusage: Linux counts in what the parent process held when this one was started.
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _scaled(path: Path, factor: float) -> float | None:
    try:
        return int(read_text(path) or "") * factor
    except ValueError:
        return None


def _cpu_info(root: Path) -> dict[str, str]:
    """``/proc/cpuinfo`` of the first core, and what stands below all cores."""
    info: dict[str, str] = {}
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            info.setdefault(name.strip(), value.strip())
    return info


def _is_emulated(info: dict[str, str]) -> bool:
    """Whether this ``/proc/cpuinfo`` of an Arm machine is one that qemu's user mode shows."""
    # Up to qemu 8.1 it is that of the machine that qemu runs on; since then, an invented one.
    host = "vendor_id" in info
    invented = info.get("model name", "").startswith("ARMv8 Processor")
    invented = invented and info.get("BogoMIPS") == "100.00"
    return host or invented or "QEMU" in info.get("Model", "")


def _cpu_name(info: dict[str, str]) -> str:
    if "model name" in info:
        return info["model name"]
    if info.get("CPU implementer") == "0x41":
        part = info.get("CPU part", "")
        with_number = f"Arm CPU part {part}"
        try:
            return _ARM_CORES.get(int(part, 16), with_number)
        except ValueError:
            return with_number
    return platform.processor() or platform.machine()


def _throttled(root: Path) -> list[str] | None:
    text = read_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled") or _vcgencmd()
    try:
        bits = int(text or "", 16)
    except ValueError:
        return _cooled(root)
    return [meaning for bit, meaning in _THROTTLED.items() if bits >> bit & 1]


def _cooled(root: Path) -> list[str] | None:
    """Whether the kernel lowers a CPU's clock for heat; None if it has no such cooling device.

    https://docs.kernel.org/driver-api/thermal/sysfs-api.html
    """
    states = [
        _scaled(device / "cur_state", 1)
        for device in (root / "sys/class/thermal").glob("cooling_device*")
        if any(kind in (read_text(device / "type") or "") for kind in ("cpufreq", "Processor"))
    ]
    known = [state for state in states if state is not None]
    return (["clock lowered for heat"] if max(known) > 0 else []) if known else None


def _throttle_events(root: Path) -> int | None:
    files = (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    known = [count for count in (_scaled(file, 1) for file in files) if count is not None]
    return int(sum(known)) if known else None


def _vcgencmd() -> str | None:
    """``0x50005``, from the Raspberry Pi's own tool; None where there is none."""
    tool = shutil.which("vcgencmd")
    if tool is None:
        return None
    try:
        answer = subprocess.run(
            [tool, "get_throttled"], capture_output=True, text=True, timeout=2
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, _, value = answer.strip().partition("=")
    return value if name == "throttled" else None


def _memory_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6
    except (AttributeError, ValueError, OSError):
        return None
