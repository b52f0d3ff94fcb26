"""Make, and keep in the cache, a Debian bookworm for 64-bit Arm with Python: the base of 64-bit Raspberry Pi OS."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from emulation import Emulator, Unavailable

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.files import atomic_write

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "python3-pip", "libstdc++6")


def root_file_system(cache: Path, emulator: Emulator) -> Path:
    """The folder of it; made if it is not in the cache, which takes some minutes and 330 MB.

    Raises:
        Unavailable: debootstrap is not installed.
        VitsdError: it failed; its log stays in the cache.
    """
    root = cache / f"{SUITE}-arm64"
    if root.is_dir():
        return root
    if not shutil.which("debootstrap"):
        raise Unavailable("it needs Debian's debootstrap: apt install debootstrap")
    with atomic_write(root) as temporary:
        command = [
            "debootstrap",
            "--arch=arm64",
            "--foreign",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
        ]
        # Mount points of its own: debootstrap must not leave any here.
        first = ["unshare", "--mount", *command, SUITE, str(temporary), *_mirror()]
        done = subprocess.run(first, capture_output=True, text=True)
        if done.returncode == 0:
            # In a container, it does not try to make device nodes, which a user namespace can't.
            environment = {"container": "lxc"}
            done = emulator.run(
                temporary,
                ["/debootstrap/debootstrap", "--second-stage"],
                environment=environment,
                timeout=3600,
            )
        if done.returncode:
            log = cache / "debootstrap.log"
            log.write_text(done.stdout + done.stderr)
            raise VitsdError(
                f"debootstrap failed; see {log}: {(done.stdout + done.stderr).strip().splitlines()[-1]}"
            )
        shutil.rmtree(temporary / "var/cache/apt", ignore_errors=True)
    return root


def _mirror() -> list[str]:
    """Where this machine gets its Debian packages from; nothing if it is no Debian, and debootstrap's default is taken."""
    if not shutil.which("apt-get"):
        return []
    wanted = [
        "apt-get",
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]
    for line in subprocess.run(wanted, capture_output=True, text=True).stdout.splitlines():
        origin, _, rest = line.partition(" ")
        label, _, address = rest.rpartition(" ")
        if origin == label == "Debian":
            return [address]
    return []
