"""Make a folder that is copied to a device: model, runtime wheel, and scripts to install and run it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import vitsd_runtime
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import detect_format, read_spec
from vitsd_runtime.system.files import atomic_write

PLATFORMS = ("aarch64", "x86_64")
_GLIBC = range(17, 37)
"""Minor versions of glibc 2.x that wheels may ask for: up to Debian bookworm's, so that they run there and later."""
_RUNTIME = "vitsd-runtime"
_WHEEL = "vitsd_runtime"
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Wheels:
    """For which device wheels are downloaded.

    Raises:
        UsageError: no such platform or Python version.
    """

    platform: str
    """Machine name, one of :data:`PLATFORMS`."""
    python: str
    """``3.11``"""

    def __post_init__(self):
        if self.platform not in PLATFORMS:
            hint = (
                " (32-bit Arm: its wheels are on piwheels, so install on the device)"
                * self.platform.startswith("arm")
            )
            raise UsageError(
                f"Wheels can be had for {' and '.join(PLATFORMS)}; not for {self.platform!r}{hint}."
            )
        if not re.fullmatch(r"3\.\d{1,2}", self.python):
            raise UsageError(f"A Python version looks like 3.11; got {self.python!r}.")

    @classmethod
    def parse(cls, text: str) -> Wheels:
        """``aarch64,3.11``."""
        platform, comma, python = text.partition(",")
        if not comma:
            raise UsageError(
                f"Say for which platform and Python, as in aarch64,3.11; got {text!r}."
            )
        return cls(platform.strip(), python.strip())


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise UsageError if ``folder`` can't be made, or holds anything but an earlier deployment to be replaced."""
    folder, here = folder.resolve(), Path.cwd()
    if folder == here or folder in here.parents:
        raise UsageError(
            f"{folder} is the current folder, or above it; give --deploy a folder that can be made anew."
        )
    if folder.is_dir() and not any(folder.iterdir()):
        return
    ours = (folder / "run.sh").is_file() and any(folder.glob(f"wheels/{_WHEEL}-*.whl"))
    if folder.exists() and not (overwrite and ours):
        raise UsageError(
            f"{folder} exists; replace an earlier deployment with --overwrite, or choose another folder."
        )


def deploy(
    model: str | os.PathLike,
    folder: str | os.PathLike,
    wheels: Sequence[Wheels] = (),
    *,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda message: None,
) -> Path:
    """Write a folder with all that a device needs: ``install.sh`` makes it ready, ``run.sh IMAGE`` classifies.

    Args:
        model: an exported file, or a SavedModel folder.
        folder: to be made.
        wheels: devices whose engine, NumPy and Pillow are downloaded, so that ``install.sh`` needs no network there.
        overwrite: replace an earlier deployment.
        report: called with a line of text about what is being done.

    Returns:
        The folder.

    Raises:
        UsageError: no exported model, or something is in the way.
        VitsdError: a wheel can't be had.
    """
    model, folder = Path(model), Path(folder).resolve()
    kind, spec = detect_format(model), read_spec(model)
    if kind == "keras" or spec is None:
        raise UsageError(f"{model} is not a file made by vitsd-export.")
    check_folder(folder, overwrite)
    target = spec.export.target if spec.export else ""
    extra = {"onnx": "onnx", "saved_model": "tensorflow", "tflite": "tflite"}[kind]
    if target.startswith("tflite-runtime"):
        extra = "tflite-runtime"
    with atomic_write(folder) as temporary:
        (temporary / "wheels").mkdir(parents=True)
        # The name goes into shell scripts.
        name = (
            model.name
            if re.fullmatch(r"\w[\w.\-]*", model.name, re.ASCII)
            else f"model{model.suffix}"
        )
        (shutil.copytree if model.is_dir() else shutil.copyfile)(model, temporary / name)
        wheel = pack_runtime(temporary / "wheels")
        for wanted in wheels:
            report(f"Wheels for Python {wanted.python} on {wanted.platform} ...")
            download(f"{wheel}[{extra}]", wanted, temporary / "wheels")
        values = {
            "MODEL": name,
            "NAME": spec.name,
            "CLASSES": str(spec.num_classes),
            "REQUIREMENT": f"./wheels/{wheel.name}[{extra}]",  # by its path: an index may have another of its name
            "FILLED": "holds all that is needed by "
            + " and ".join(f"Python {w.python} on {w.platform}" for w in wheels)
            if wheels
            else "holds the runtime, but no engine",
        }
        for template in sorted(_TEMPLATES.iterdir()):
            text = template.read_text(encoding="utf-8")
            for key, value in values.items():
                text = text.replace(f"@{key}@", value)
            written = temporary / template.name
            written.write_text(text, encoding="utf-8")
            written.chmod(0o755 if written.suffix == ".sh" else 0o644)
    return folder


def pack_runtime(folder: Path) -> Path:
    """Write the installed runtime as a wheel, whether it was installed from one or runs from its sources.

    A wheel of pure Python is its files and its metadata in a zip file
    (https://packaging.python.org/en/latest/specifications/binary-distribution-format/).
    """
    distribution = metadata.distribution(_RUNTIME)
    name = f"{_WHEEL}-{distribution.version}"
    package = Path(vitsd_runtime.__file__).parent
    contents = {
        f"vitsd_runtime/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    for entry in ("METADATA", "WHEEL", "entry_points.txt"):
        text = distribution.read_text(entry)
        if text is None:
            raise VitsdError(f"The installed {_RUNTIME} has no {entry}: reinstall it.")
        contents[f"{name}.dist-info/{entry}"] = text.encode()
    record = f"{name}.dist-info/RECORD"
    lines = [
        f"{file},sha256={_digest(content)},{len(content)}" for file, content in contents.items()
    ]
    contents[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    path = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in contents.items():
            # ZipInfo has no clock: equal files from equal contents.
            archive.writestr(zipfile.ZipInfo(file), content, zipfile.ZIP_DEFLATED)
    return path


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def download(requirement: str, wanted: Wheels, folder: Path, *more: str) -> None:
    """Download wheels of a requirement, and of all it needs, for another machine; ``more`` are further words for pip.

    Raises:
        VitsdError: pip can't reach its index, or finds no wheel for that machine.
    """
    platforms = [f"manylinux_2_{minor}_{wanted.platform}" for minor in reversed(_GLIBC)]
    platforms += [f"manylinux2014_{wanted.platform}"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ]
    command += [
        "--implementation",
        "cp",
        "--python-version",
        wanted.python,
        "--dest",
        str(folder),
        requirement,
        *more,
    ]
    command += [word for platform in platforms for word in ("--platform", platform)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = errors[-1].removeprefix("ERROR: ") if errors else done.stderr.strip()[-300:]
        raise VitsdError(
            f"pip found no wheels for Python {wanted.python} on {wanted.platform}: {why}"
        )
