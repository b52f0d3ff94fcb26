"""Wheels for a device: the installed runtime packed as one, and those of the engines downloaded."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import vitsd_runtime
from vitsd_runtime.errors import UsageError, VitsdError

MACHINES = ("aarch64", "x86_64")
"""Devices that the engines publish wheels for."""
RUNTIME = "vitsd-runtime"
RUNTIME_PACKAGE = "vitsd_runtime"
_GLIBC_MINOR_VERSIONS = range(17, 37)
"""Versions 2.x of glibc that a wheel may require. The last is Debian bookworm's, so such wheels run
there and on anything newer."""
_METADATA_FILES = ("METADATA", "WHEEL", "entry_points.txt")


@dataclass(frozen=True)
class DevicePlatform:
    """A kind of device that wheels are downloaded for.

    Raises:
        UsageError: no wheels are published for such a machine, or that is no Python version.
    """

    machine: str
    """Architecture as ``uname -m`` prints it, one of :data:`MACHINES`."""
    python: str
    """``3.11``"""

    def __post_init__(self) -> None:
        """Check both."""
        if self.machine not in MACHINES:
            hint = ""
            if self.machine.startswith("arm"):
                hint = " (32-bit Arm: its wheels are on piwheels, so install on the device)"
            raise UsageError(
                f"Wheels are available for {' and '.join(MACHINES)}, not for "
                f"{self.machine!r}{hint}."
            )
        if not re.fullmatch(r"3\.\d{1,2}", self.python):
            raise UsageError(f"A Python version looks like 3.11; got {self.python!r}.")

    @classmethod
    def parse(cls, text: str) -> DevicePlatform:
        """From ``MACHINE,PYTHON``, e.g. ``aarch64,3.11``.

        Raises:
            UsageError: the text is something else.
        """
        machine, comma, python = text.partition(",")
        if not comma:
            raise UsageError(
                f"A device is a machine and a Python version, as in aarch64,3.11; got {text!r}."
            )
        return cls(machine.strip(), python.strip())

    def __str__(self) -> str:
        return f"Python {self.python} on {self.machine}"


def pack_runtime(folder: Path) -> Path:
    """Write the installed runtime as a wheel, whether it came from one or is an editable install.

    A pure-Python wheel is a zip file of the package and its metadata
    (https://packaging.python.org/en/latest/specifications/binary-distribution-format/).
    Equal installations give equal bytes.

    Raises:
        VitsdError: it is not installed, or the installation lacks its metadata.
    """
    try:
        distribution = metadata.distribution(RUNTIME)
    except metadata.PackageNotFoundError as error:
        raise VitsdError(
            f"{RUNTIME} runs from sources that are not installed, so no wheel can be made of it: "
            "pip install -e them."
        ) from error
    name = f"{RUNTIME_PACKAGE}-{distribution.version}"
    contents = {**_package_files(), **_metadata_files(distribution, f"{name}.dist-info")}
    record = f"{name}.dist-info/RECORD"
    lines = [f"{file},sha256={_digest(data)},{len(data)}" for file, data in contents.items()]
    contents[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    path = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, data in contents.items():
            # A bare ZipInfo has a fixed time stamp.
            archive.writestr(zipfile.ZipInfo(file), data, zipfile.ZIP_DEFLATED)
    return path


def _package_files() -> dict[str, bytes]:
    package = Path(str(vitsd_runtime.__file__)).parent
    return {
        f"{RUNTIME_PACKAGE}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _metadata_files(distribution: metadata.Distribution, folder: str) -> dict[str, bytes]:
    contents = {}
    for name in _METADATA_FILES:
        text = distribution.read_text(name)
        if text is None:
            raise VitsdError(f"The installed {RUNTIME} has no {name}: reinstall it.")
        contents[f"{folder}/{name}"] = text.encode()
    return contents


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def download(
    requirements: Sequence[str],
    platform: DevicePlatform,
    folder: Path,
    constraints: Path | None = None,
) -> None:
    """Download the wheels of some requirements, and of all they depend on, for another machine.

    Args:
        requirements: as pip takes them; also paths of wheels, with or without extras.
        platform: the other machine.
        folder: for the wheels.
        constraints: pip's constraints file.

    Raises:
        VitsdError: pip can't reach its index, or finds no wheel for that machine.
    """
    platforms = [
        *(f"manylinux_2_{minor}_{platform.machine}" for minor in reversed(_GLIBC_MINOR_VERSIONS)),
        f"manylinux2014_{platform.machine}",
    ]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command = [
        *pip,
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={platform.python}",
        f"--dest={folder}",
        *requirements,
    ]
    if constraints is not None:
        command.append(f"--constraint={constraints}")
    command += [f"--platform={tag}" for tag in platforms]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise VitsdError(f"pip found no wheels for {platform}: {_reason(done.stderr)}")


def _reason(stderr: str) -> str:
    """The last error in pip's output."""
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR")]
    return errors[-1].removeprefix("ERROR: ") if errors else stderr.strip()[-300:]
