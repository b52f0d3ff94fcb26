"""Run programs of a 64-bit Arm root file system on this machine, through qemu's user mode, and leave no trace.

Everything happens in namespaces of its own, so mounts end with the last process however that ends. For the kernel to start
Arm programs by itself, qemu must be registered in binfmt_misc; since Linux 6.7 that can be done for a user namespace alone.
Where neither that nor an entry of the system's is to be had, proot calls qemu for each program.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitsd_runtime.errors import VitsdError

QEMU = "qemu-aarch64-static"
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_MAGIC = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
"""Debian's registration of qemu: what Arm programs begin with."""
_CPU_INFO = {
    "cortex-a72": ("0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
"""Part number and features of the models, as their kernels show them."""
_SEES_ONLY_ITSELF = (
    "setpriv --pdeathsig KILL unshare --mount --pid --net --ipc --fork --kill-child".split()
)
"""Ends with the process that starts it, even if that is killed."""


class Unavailable(VitsdError):
    """Arm programs can't be run here; the message says why."""


@dataclass(frozen=True)
class Emulator:
    """How Arm programs are started.

    ``private``: qemu registered for a user namespace of its own; ``system``: by the entry that the system has; ``explicit``:
    through proot.
    """

    mode: str

    @classmethod
    def find(cls, wanted: str | None = None) -> Emulator:
        """The first mode that works here, or the wanted one.

        Raises:
            Unavailable: none does.
        """
        if platform.system() != "Linux" or os.geteuid() != 0:
            raise Unavailable("it needs Linux, and root (for a root file system of its own)")
        if platform.machine() == "aarch64":
            raise Unavailable(
                "this machine is a 64-bit Arm machine already: make test says more than an emulator"
            )
        for tool, package in ((QEMU, "qemu-user-static"), ("unshare", "util-linux")):
            if not shutil.which(tool):
                raise Unavailable(f"it needs Debian's {package}: apt install {package}")
        if subprocess.run([*_SEES_ONLY_ITSELF, "true"], capture_output=True).returncode:
            raise Unavailable(
                "the kernel refuses namespaces (in a container: it needs --privileged)"
            )
        modes = {
            "private": _can_register_privately,
            "system": _is_registered,
            "explicit": _has_proot,
        }
        for mode, works in modes.items():
            if wanted in (None, mode) and works():
                return cls(mode)
        reason = "Linux is older than 6.7, has no binfmt_misc entry for qemu-aarch64, and proot is not installed"
        raise Unavailable(
            f"the way {wanted!r} of starting Arm programs does not work here" if wanted else reason
        )

    def run(
        self,
        root: Path,
        command: Sequence[str | os.PathLike],
        *,
        cpu: str = "max",
        folder: str = "/",
        binds: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess:
        """Run a program of the root file system, without network, and wait for it.

        Args:
            root: the root file system.
            command: the program in it, and its arguments.
            cpu: model for qemu, e.g. ``cortex-a72``.
            folder: to start in.
            binds: folders of this machine that are shown in the root file system, where a folder is made for them.
            environment: in addition to PATH, HOME and the like; nothing is inherited.
            timeout: in seconds.

        Returns:
            Exit code and text of stdout and stderr; exit code 124 if it took too long and was ended. (qemu does not always
            pass a crash on, but may hang.)
        """
        for inside in binds or {}:
            (root / inside.lstrip("/")).mkdir(parents=True, exist_ok=True)
        _show_cpu(root, cpu)
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "QEMU_CPU": cpu,
            **(environment or {}),
        }
        start = getattr(self, f"_start_{self.mode}")
        process = start(root, [str(word) for word in command], folder, binds or {}, variables)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException as error:
            os.killpg(
                process.pid, signal.SIGKILL
            )  # the first process in its namespace too, and with it all others
            stdout, stderr = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return subprocess.CompletedProcess(
                command, 124, stdout, f"{stderr}\nno end after {timeout:.0f} s"
            )
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def _start_private(self, root, command, folder, binds, variables):
        script = f"read go && {_REGISTER} && {_ENTER}"
        return _in_user_namespace([*_shell(script, root, folder, binds), *command], variables)

    def _start_system(self, root, command, folder, binds, variables):
        words = [*_SEES_ONLY_ITSELF, *_shell(_ENTER, root, folder, binds), *command]
        return _popen(words, variables)

    def _start_explicit(self, root, command, folder, binds, variables):
        shown = {
            "/proc": "/proc",
            "/proc/cpuinfo": root / _SHOWN_CPU,
            "/dev": "/dev",
            "/sys": "/sys",
            **binds,
        }
        words = ["proot", "-q", QEMU, "-r", str(root), "-w", folder]
        words += [
            word for inside, outside in shown.items() for word in ("-b", f"{outside}:{inside}")
        ]
        variables = {**variables, "PROOT_TMP_DIR": tempfile.gettempdir()}
        return _popen([*_SEES_ONLY_ITSELF, "--mount-proc", *words, *command], variables)


_REGISTER = f"mount -t binfmt_misc binfmt_misc {_BINFMT} && cat {_MAGIC} > {_BINFMT}/register"
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


_SHOWN_CPU = "run/cpuinfo"
_SHELL = ("/bin/sh", "-p", "-c")
"""-p: the ids may be mapped between the shell's two questions for its real and its effective user. Without, it would take
the different answers for a setuid program's, and give up its rights (one time in a thousand)."""


def _show_cpu(root: Path, cpu: str) -> None:
    """Engines choose their kernels by /proc/cpuinfo. Shown the host's, they crash; shown none, they use the plainest."""
    part, features = _CPU_INFO.get(cpu, _CPU_INFO["cortex-a72"])
    core = f"Features\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}"
    cores = "".join(
        f"processor\t: {i}\n{core}\nCPU revision\t: 3\n\n" for i in range(os.cpu_count() or 1)
    )
    path = root / _SHOWN_CPU
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{cores}Model\t\t: QEMU user mode\n")


def _shell(script: str, root: Path, folder: str, binds: Mapping[str, Path]) -> list[str]:
    pairs = [word for inside, outside in binds.items() for word in (str(outside), inside)]
    return [*_SHELL, script, "enter", str(root), folder, str(len(binds)), *pairs]


def _popen(words, variables, stdin=subprocess.DEVNULL):
    # A process group of its own: Ctrl-C reaches us alone, and we end it.
    return subprocess.Popen(
        words,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=dict(variables),
        start_new_session=True,
    )


def _in_user_namespace(words: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen:
    """Start a program that first reads a line, which it gets when it may act as root in a user namespace of its own."""
    # The capabilities must outlast the exec that comes before the user ids are mapped.
    process = _popen(
        [*_SEES_ONLY_ITSELF, "--user", "--keep-caps", *words], variables, stdin=subprocess.PIPE
    )
    try:
        _map_user_ids(process)
        process.stdin.write("go\n")
        process.stdin.close()
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, OSError):
            raise Unavailable(f"the kernel refused a user namespace: {error}") from error
        raise
    process.stdin = None
    return process


def _map_user_ids(process: subprocess.Popen) -> None:
    """Give the process' new user namespace the ids of this one, because files of the root file system have many owners."""
    ours, theirs = os.readlink("/proc/self/ns/user"), f"/proc/{process.pid}/ns/user"
    while os.readlink(theirs) == ours:
        if process.poll() is not None:
            raise Unavailable(f"unshare failed: {process.stderr.read().strip()}")
        time.sleep(0.005)
    for ids in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{ids}").write_text("0 0 65536\n")


def _can_register_privately() -> bool:
    if not (_BINFMT.is_dir() and _MAGIC.exists()):
        return False
    try:
        probe = _in_user_namespace(
            [*_SHELL, f"read go && {_REGISTER} && mount -t proc proc /proc"], os.environ
        )
    except Unavailable:
        return False
    probe.communicate()
    return probe.returncode == 0


def _is_registered() -> bool:
    with contextlib.suppress(OSError):
        entry = (_BINFMT / "qemu-aarch64").read_text()
        # F: the interpreter was opened when it was registered, so it is found from within another root.
        return (
            entry.startswith("enabled")
            and re.search(r"^flags: .*F", entry, re.MULTILINE) is not None
        )
    return False


def _has_proot() -> bool:
    return shutil.which("proot") is not None


def cpu_models() -> set[str]:
    """The models that this qemu knows."""
    return set(
        subprocess.run([QEMU, "-cpu", "help"], capture_output=True, text=True).stdout.split()
    )


if __name__ == "__main__":  # a shell: python emulation.py ROOT COMMAND ...
    done = Emulator.find().run(Path(sys.argv[1]), sys.argv[2:])
    print(done.stdout, done.stderr, sep="", end="")
    sys.exit(done.returncode)
