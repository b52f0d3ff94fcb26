"""Run programs of a 64-bit Arm root file system on this machine, and leave no trace.

The kernel starts Arm programs through qemu, which is registered in binfmt_misc. Since Linux 6.7
that can be done for a user namespace alone, so nothing changes for the rest of the system.
Everything happens in such namespaces, so mounts end with the last process, however it ends.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.types import PathLike

QEMU = "qemu-aarch64-static"
TIMED_OUT = 124
"""Exit code of a program that was ended because it took too long."""
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_REGISTRATION = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
"""Debian's registration of qemu: what Arm programs begin with."""
_CPU_INFO = {
    "cortex-a72": ("0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
        "dcpop asimddp",
    ),
}
"""Part number and features of the CPU models, as their kernels show them."""
_SHOWN_CPU = "run/cpuinfo"
"""File in the root file system that is shown as /proc/cpuinfo."""
_ISOLATED = (
    "setpriv",
    "--pdeathsig=KILL",
    "unshare",
    "--mount",
    "--pid",
    "--net",
    "--ipc",
    "--fork",
    "--kill-child",
)
"""Starts a program in namespaces of its own. It ends with the process that starts it, even if that
is killed."""
_SHELL = ("/bin/sh", "-p", "-c")
"""-p: the user ids may be mapped between the shell's two questions for its real and its effective
user. Without it, the shell would take the different answers for a setuid program's, and give up its
rights (one time in a thousand)."""
_REGISTER = (
    f"mount -t binfmt_misc binfmt_misc {_BINFMT} && cat {_REGISTRATION} > {_BINFMT}/register"
)
_ENTER = """set -e
root=$1 folder=$2 binds=$3; shift 3
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount --bind "$root/run/cpuinfo" "$root/proc/cpuinfo"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
while [ "$binds" -gt 0 ]; do mount --bind "$1" "$root/$2"; shift 2; binds=$((binds - 1)); done
exec chroot "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class UnavailableError(VitsdError):
    """Arm programs can't be run here; the message says why."""


def check_available() -> None:
    """Check that Arm programs can be run here.

    Raises:
        UnavailableError: they can't.
    """
    if platform.system() != "Linux" or os.geteuid() != 0:
        raise UnavailableError("it needs Linux, and root (for a root file system of its own)")
    if platform.machine() == "aarch64":
        raise UnavailableError(
            "this machine is a 64-bit Arm machine already: make test says more than an emulator"
        )
    for tool, package in ((QEMU, "qemu-user-static"), ("unshare", "util-linux")):
        if not shutil.which(tool):
            raise UnavailableError(f"it needs Debian's {package}: apt install {package}")
    if subprocess.run([*_ISOLATED, "true"], capture_output=True).returncode:
        raise UnavailableError(
            "the kernel refuses namespaces (in a container: it needs --privileged)"
        )
    if not _can_register():
        raise UnavailableError(
            "qemu can't be registered for a user namespace: it needs Linux 6.7 or newer with "
            "binfmt_misc, and Debian's qemu-user-static"
        )


def cpu_models() -> set[str]:
    """The CPU models that this qemu knows."""
    done = subprocess.run([QEMU, "-cpu", "help"], capture_output=True, text=True)
    return set(done.stdout.split())


@dataclass(frozen=True)
class Guest:
    """A 64-bit Arm root file system whose programs can be run."""

    root: Path
    """On this machine."""
    binds: Mapping[str, Path] = field(default_factory=dict)
    """Folders of this machine by the path under which the guest sees them."""

    def run(
        self,
        command: Sequence[PathLike],
        *,
        cpu: str = "max",
        folder: str = "/",
        environment: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the guest, without network, and wait for it.

        Args:
            command: the program, and its arguments.
            cpu: model for qemu, e.g. ``cortex-a72``.
            folder: to start in.
            environment: in addition to PATH, HOME and the like; nothing is inherited.
            timeout: in seconds. qemu does not always pass a crash on, but may hang.

        Returns:
            Exit code and text of stdout and stderr; exit code :data:`TIMED_OUT` if it took too
            long and was ended.

        Raises:
            UnavailableError: the kernel refuses the namespaces.
        """
        for inside in self.binds:
            (self.root / inside.lstrip("/")).mkdir(parents=True, exist_ok=True)
        _show_cpu(self.root, cpu)
        process = _start_in_user_namespace(
            [*self._enter(folder), *map(str, command)],
            {**_ENVIRONMENT, "QEMU_CPU": cpu, **(environment or {})},
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException as error:
            # Kills the first process of the namespace too, and with it all others.
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            stderr += f"\nno end after {timeout:.0f} s"
            return subprocess.CompletedProcess(command, TIMED_OUT, stdout, stderr)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def _enter(self, folder: str) -> Iterator[str]:
        """Words that register qemu and start what follows in the root file system."""
        yield from (*_SHELL, f"read go && {_REGISTER} && {_ENTER}", "enter")
        yield from (str(self.root), folder, str(len(self.binds)))
        for inside, outside in self.binds.items():
            yield from (str(outside), inside)


def _show_cpu(root: Path, cpu: str) -> None:
    """Write what the guest sees as /proc/cpuinfo.

    Engines choose their kernels by it. Shown the host's, they crash; shown none, they use the
    plainest.
    """
    part, features = _CPU_INFO.get(cpu, _CPU_INFO["cortex-a72"])
    core = (
        f"Features\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 3\n\n"
    )
    cores = "".join(f"processor\t: {i}\n{core}" for i in range(os.cpu_count() or 1))
    path = root / _SHOWN_CPU
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{cores}Model\t\t: QEMU user mode\n")


def _can_register() -> bool:
    if not (_BINFMT.is_dir() and _REGISTRATION.exists()):
        return False
    script = f"read go && {_REGISTER} && mount -t proc proc /proc"
    try:
        probe = _start_in_user_namespace([*_SHELL, script], os.environ)
    except UnavailableError:
        return False
    probe.communicate()
    return probe.returncode == 0


def _start_in_user_namespace(
    words: Sequence[str], variables: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start a program as root of a user namespace of its own.

    The program first reads a line from stdin, which it gets when it may act as root there.

    Raises:
        UnavailableError: the kernel refuses the namespace.
    """
    process = subprocess.Popen(
        # The capabilities must outlast the exec that comes before the user ids are mapped.
        [*_ISOLATED, "--user", "--keep-caps", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=dict(variables),
        # A process group of its own: Ctrl-C reaches us alone, and we end it.
        start_new_session=True,
    )
    try:
        _map_user_ids(process)
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, OSError):
            raise UnavailableError(f"the kernel refused a user namespace: {error}") from error
        raise
    process.stdin = None
    return process


def _map_user_ids(process: subprocess.Popen[str]) -> None:
    """Give the process's user namespace the ids of this one: files of the root have many owners."""
    ours, theirs = os.readlink("/proc/self/ns/user"), f"/proc/{process.pid}/ns/user"
    while os.readlink(theirs) == ours:
        if process.poll() is not None:
            assert process.stderr is not None
            raise UnavailableError(f"unshare failed: {process.stderr.read().strip()}")
        time.sleep(0.005)
    for ids in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{ids}").write_text("0 0 65536\n")


if __name__ == "__main__":  # a shell: python -m tools.arm64.emulation ROOT COMMAND ...
    done = Guest(Path(sys.argv[1])).run(sys.argv[2:])
    print(done.stdout, done.stderr, sep="", end="")
    sys.exit(done.returncode)
