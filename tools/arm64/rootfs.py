"""Make a Debian bookworm for 64-bit Arm with Python, the base of 64-bit Raspberry Pi OS."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

from tools.arm64.emulation import Guest, UnavailableError
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.files import atomic_write

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "python3-pip", "libstdc++6")
_log = logging.getLogger("vitsd.tools.arm64")


def root_file_system(cache: Path) -> Path:
    """The root file system's folder.

    It is made if it is not in the cache, which takes some minutes and 330 MB.

    Raises:
        UnavailableError: debootstrap is not installed.
        VitsdError: it failed; its log stays in the cache.
    """
    root = cache / f"{SUITE}-arm64"
    if root.is_dir():
        return root
    if not shutil.which("debootstrap"):
        raise UnavailableError("it needs Debian's debootstrap: apt install debootstrap")
    _log.info("Making the root file system (about four minutes, once) ...")
    with atomic_write(root) as temporary:
        done = _unpack(temporary)
        if done.returncode == 0:
            done = _configure(temporary)
        if done.returncode:
            output = done.stdout + done.stderr
            log = cache / "debootstrap.log"
            log.write_text(output)
            last_line = output.strip().splitlines()[-1]
            raise VitsdError(f"debootstrap failed; see {log}: {last_line}")
        shutil.rmtree(temporary / "var/cache/apt", ignore_errors=True)
    return root


def _unpack(root: Path) -> subprocess.CompletedProcess[str]:
    """Download and unpack the packages, without running anything of theirs."""
    command = [
        # Mount points of its own: debootstrap must not leave any here.
        *("unshare", "--mount", "debootstrap", "--arch=arm64", "--foreign", "--variant=minbase"),
        f"--include={','.join(PACKAGES)}",
        SUITE,
        str(root),
        *_mirror(),
    ]
    return subprocess.run(command, capture_output=True, text=True)


def _configure(root: Path) -> subprocess.CompletedProcess[str]:
    return Guest(root).run(
        ["/debootstrap/debootstrap", "--second-stage"],
        # In a container, it does not try to make device nodes, which a user namespace can't.
        environment={"container": "lxc"},
        timeout=3600,
    )


def _mirror() -> list[str]:
    """Where this machine gets its Debian packages from; nothing if it is no Debian."""
    if not shutil.which("apt-get"):
        return []
    layout = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    query = ["apt-get", "indextargets", "--format", layout, "Created-By: Packages"]
    for line in subprocess.run(query, capture_output=True, text=True).stdout.splitlines():
        origin, _, rest = line.partition(" ")
        label, _, address = rest.rpartition(" ")
        if origin == label == "Debian":
            return [address]
    return []
