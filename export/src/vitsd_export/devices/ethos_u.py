"""Compile files for Ethos-U NPUs with Vela, Arm's compiler: ``ethos-u-vela``."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.spec import NpuFigures
from vitsd_runtime.system.text import printable

_MAX_SECONDS = 1800
_MODEL = "model.tflite"
_COMPILED = "model_vela.tflite"


@dataclass(frozen=True)
class Accelerator:
    """An NPU, and the memory that its figures are estimated for."""

    config: str
    """Name and multiplications per cycle, as Vela calls it."""
    system: str
    """Clock, bandwidths and latencies, in Vela's own configuration file."""
    memory: str
    """What lies where."""


ACCELERATORS = {
    "ethos-u55": Accelerator("ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": Accelerator("ethos-u65-256", "Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "ethos-u85": Accelerator("ethos-u85-256", "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
"""By target. Vela's own defaults, which are those of Arm's evaluation kit; other sizes and memories
are compiled from the plain file with Vela itself."""


def find_vela() -> Path | None:
    """The compiler: beside this Python, else on the ``PATH``; None if it is not installed."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("vela", path=places)
    return None if found is None else Path(found)


def compile_with_vela(
    vela: Path, content: bytes, accelerator: Accelerator, folder: Path
) -> tuple[bytes, NpuFigures]:
    """Compile a file.

    Args:
        vela: the compiler.
        content: a ``.tflite`` file.
        accelerator: what to compile for.
        folder: an empty one, for what the compiler writes.

    Returns:
        The compiled file, and what the compiler says about it.

    Raises:
        VitsdError: the compiler refuses the file, or says nothing that can be read.
    """
    (folder / _MODEL).write_bytes(content)
    printed = _run(
        vela,
        str(folder / _MODEL),
        f"--output-dir={folder}",
        f"--accelerator-config={accelerator.config}",
        f"--system-config={accelerator.system}",
        f"--memory-mode={accelerator.memory}",
        "--config=Arm/vela.ini",
    )
    version = _run(vela, "--version").strip()
    try:
        return (folder / _COMPILED).read_bytes(), _figures(printed, folder, version, accelerator)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise VitsdError(
            f"Vela {printable(version, 40)} gives no report that this version of vitsd-export can "
            'read; install the one that it knows: pip install "vitsd-export[ethos-u]".'
        ) from error


def _run(vela: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [vela, *arguments], capture_output=True, text=True, timeout=_MAX_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VitsdError(f"Vela can't be run: {printable(error, 200)}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        raise VitsdError(f"Vela refuses the file: {printable(lines[-1], 200)}")
    return done.stdout


def _figures(printed: str, folder: Path, version: str, accelerator: Accelerator) -> NpuFigures:
    counts = dict(re.findall(r"^(CPU|NPU) operators = (\d+)", printed, re.MULTILINE))
    (summary,) = folder.glob("*_summary_*.csv")
    with open(summary, newline="") as file:
        row = next(csv.DictReader(file))

    def used(*names: str) -> int:
        return round(1024 * sum(float(row[f"{name}_memory_used"]) for name in names))

    return NpuFigures(
        compiler=f"Vela {version}",
        accelerator=accelerator.config,
        npu_operators=int(counts["NPU"]),
        cpu_operators=int(counts["CPU"]),
        sram=used("sram"),
        off_chip=used("dram", "on_chip_flash", "off_chip_flash"),
        cycles=int(float(row["cycles_total"])),
        milliseconds=round(1000 * float(row["inference_time"]), 4),
    )
