"""``make arm64``: prove on an emulated 64-bit Arm Linux that the runtime works there and agrees.

In Debian bookworm, the base of 64-bit Raspberry Pi OS, and in three environments made of real
aarch64 wheels: the runtime's own tests, its commands, the logits of every artifact on real images
for each CPU model, and a deployment that is installed without network. Exit code 1 if anything
differs; 0 with the word "skipped" where Arm programs can't be run. An emulator's times mean
nothing, so none are shown.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.arm64 import artifacts
from tools.arm64.device import Device
from tools.arm64.emulation import UnavailableError, check_available, cpu_models
from tools.arm64.proof import FLOAT_TOLERANCE, LEAST_AGREEMENT, Proof
from tools.arm64.rootfs import root_file_system
from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.files import remove
from vitsd_runtime.system.text import table

CPUS = {"cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}
SEEDS = (0, 1, 2)
"""Several: how a CPU rounds must not matter for any weights that a training may end with."""
_log = logging.getLogger("vitsd.tools.arm64")


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="arm64",
        description="Prove on an emulated 64-bit Arm Linux that the runtime works there and gives "
        "the same answers as here.",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL.keras",
        help="whose logits are compared (default: tiny, trained on digits with each seed)",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        metavar="SEED,SEED",
        default=SEEDS,
        help=f"of the models trained on digits (default: {','.join(map(str, SEEDS))})",
    )
    parser.add_argument(
        "--data", metavar="SOURCE", default="digits", help="its data (default: digits)"
    )
    parser.add_argument(
        "--cpus", metavar="CPU,CPU", help=f"models of qemu (default: {','.join(CPUS)})"
    )
    parser.add_argument(
        "--tests",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the runtime's test suite (default)",
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitsd" / "arm64"
    parser.add_argument(
        "--cache", type=Path, default=cache, help=f"folder for all files (default: {cache})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON at the end")
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"must be numbers such as 0,1,2; got {text!r}")
    return tuple(map(int, text.split(",")))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-runtime")


def _main(arguments: argparse.Namespace) -> int:
    start = time.perf_counter()
    try:
        check_available()
        cpus = _choose_cpus(arguments.cpus)
        proof = _prove(arguments, cpus)
    except UnavailableError as reason:
        _log.info("skipped: %s", reason)
        return 0
    if arguments.json:
        rows = [asdict(row) for row in proof.rows]
        print(json.dumps({"rows": rows, "failures": proof.failures}, indent=1))
    else:
        _print(proof, cpus)
        print(f"Done in {time.perf_counter() - start:.0f} s.")
    return 1 if proof.failures else 0


def _choose_cpus(requested: str | None) -> list[str]:
    """The CPU models to emulate.

    Raises:
        UsageError: qemu does not know one that was requested.
    """
    known = cpu_models()
    if requested is None:
        return _default_cpus(known)
    cpus = requested.split(",")
    if unknown := sorted(set(cpus) - known):
        raise UsageError(
            f"This qemu has no CPU model {unknown[0]!r}; see qemu-aarch64-static -cpu help."
        )
    return cpus


def _default_cpus(known: set[str]) -> list[str]:
    if missing := [cpu for cpu in CPUS if cpu not in known]:
        _log.info("This qemu has no %s: not tried.", " and no ".join(missing))
    return [cpu for cpu in CPUS if cpu in known] or ["max"]


def _prove(arguments: argparse.Namespace, cpus: list[str]) -> Proof:
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache), _work_folder(cache) as work:
        _log.info("Everything is kept in %s.", cache)
        root = root_file_system(cache)
        materials = artifacts.prepare(work, cache, arguments.model, arguments.data, arguments.seeds)
        proof = Proof(Device(root, work), materials, cache, cpus)
        proof.run(with_tests=arguments.tests)
        return proof


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise VitsdError(
                f"Another run is using {cache}: wait for it, or choose another --cache."
            ) from error
        yield


@contextlib.contextmanager
def _work_folder(cache: Path) -> Iterator[Path]:
    """A folder for this run; what killed runs left is removed."""
    for left in cache.glob("work-*"):
        remove(left)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
    # Exporters that are killed leave their temporary files: here they go with the folder.
    os.environ["TMPDIR"] = tempfile.tempdir = str(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _print(proof: Proof, cpus: list[str]) -> None:
    headers = [
        "engine",
        "model",
        "artifact",
        "CPU model",
        "max |logit diff|",
        "agreement %",
        "verdict",
    ]
    cells = [
        [
            row.engine,
            row.model,
            row.artifact,
            row.cpu,
            f"{row.difference:.1e}",
            f"{100 * row.agreement:.1f}",
            "same" if row.passed else "DIFFERENT",
        ]
        for row in proof.rows
    ]
    print(f"\n{table(cells, headers)}")
    boards = ", ".join(f"{cpu}: {CPUS[cpu]}" for cpu in cpus if cpu in CPUS)
    print(
        f"{len(proof.materials.images)} real images, each file here and on emulated 64-bit Arm "
        f"({boards}). Required: float32 logits within {FLOAT_TOLERANCE:g}, "
        f"{100 * LEAST_AGREEMENT:.0f} % of the quantized top-1 answers equal."
    )
    for failure in proof.failures:
        print(f"FAILED: {failure}")


if __name__ == "__main__":
    sys.exit(main())
