"""``make arm64``: prove on an emulated 64-bit Arm Linux that the runtime works there and answers as here.

In Debian bookworm, the base of 64-bit Raspberry Pi OS, and in three environments made of real aarch64 wheels: the runtime's
own tests, its commands, the logits of every artifact on real images for each CPU model, and a deployment that is installed
without network. Exit code 1 if anything differs; 0 with the word "skipped" where Arm programs can't be run. An emulator's
times mean nothing, so none are shown.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import artifacts
import numpy as np
from artifacts import ENGINES, Engine
from emulation import Emulator, Unavailable, cpu_models
from PIL import Image
from rootfs import root_file_system

from vitsd_runtime import Classifier, read_spec
from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.files import remove
from vitsd_runtime.system.signals import check_interrupted
from vitsd_runtime.system.text import table

CPUS = {"cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}
FLOAT_TOLERANCE = 1e-4
"""Largest difference of a float32 logit."""
LEAST_AGREEMENT = 0.99
"""Of the top-1 answers of quantised models."""
PICTURES = 5


@dataclass(frozen=True)
class Row:
    """One artifact on one CPU model, compared with the same file on this machine."""

    engine: str
    artifact: str
    cpu: str
    difference: float
    """Largest absolute difference of a logit."""
    agreement: float
    """Fraction of images with the same top-1 answer."""
    passed: bool


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arm64", description=__doc__.split("\n\n")[0].split(": ", 1)[1]
    )
    parser.add_argument(
        "--model",
        metavar="MODEL.keras",
        help="whose logits are compared (default: tiny, trained on digits)",
    )
    parser.add_argument(
        "--data", metavar="SOURCE", default="digits", help="its data (default: digits)"
    )
    parser.add_argument(
        "--cpus", metavar="CPU,CPU", help=f"models of qemu (default: {','.join(CPUS)})"
    )
    parser.add_argument(
        "--no-tests", action="store_true", help="leave out the runtime's test suite"
    )
    parser.add_argument(
        "--emulation",
        choices=("private", "system", "explicit"),
        help="how Arm programs are started",
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitsd" / "arm64"
    parser.add_argument(
        "--cache", type=Path, default=cache, help=f"folder for all files (default: {cache})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON at the end")
    return parser


def main(argv=None) -> int:
    return app.run(_main, build_parser(), argv)


def _main(arguments) -> int:
    start = time.perf_counter()
    out = sys.stderr if arguments.json else sys.stdout

    def report(text):
        print(text, file=out, flush=True)

    try:
        emulator = Emulator.find(arguments.emulation)
    except Unavailable as reason:
        report(f"skipped: {reason}")
        return 0
    cpus = _cpus(arguments.cpus, report)
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache):
        for left in (*cache.glob(".tmp-*"), *cache.glob("work-*")):  # by a run that was killed
            remove(left)
        report(
            f"Arm programs are started in the way {emulator.mode!r}; everything is kept in {cache}"
        )
        work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
        # Exporters that are killed leave their temporary files: here they go with the folder.
        os.environ["TMPDIR"] = tempfile.tempdir = str(work)
        try:
            if not (cache / "bookworm-arm64").exists():
                report("Making the root file system (about four minutes, once) ...")
            root = root_file_system(cache, emulator)
            proof = Proof(emulator, root, work, cpus, arguments, report)
            proof.run()
        except Unavailable as reason:
            report(f"skipped: {reason}")
            return 0
        finally:
            shutil.rmtree(work, ignore_errors=True)
    if arguments.json:
        print(
            json.dumps(
                {"rows": [asdict(row) for row in proof.rows], "failures": proof.failures}, indent=1
            )
        )
    else:
        proof.print()
        print(f"Done in {time.perf_counter() - start:.0f} s.")
    return 1 if proof.failures else 0


def _cpus(wanted: str | None, report) -> list[str]:
    """The CPU models to emulate. Raises UsageError for names that qemu does not know."""
    known = cpu_models()
    if wanted is None:
        if missing := [cpu for cpu in CPUS if cpu not in known]:
            report(f"This qemu has no {' and no '.join(missing)}: not tried.")
        return [cpu for cpu in CPUS if cpu in known] or ["max"]
    cpus = wanted.split(",")
    if unknown := [cpu for cpu in cpus if cpu not in known]:
        raise UsageError(
            f"This qemu has no CPU model {unknown[0]!r}; see qemu-aarch64-static -cpu help."
        )
    return cpus


@contextlib.contextmanager
def _locked(cache: Path):
    with (cache / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise VitsdError(
                f"Another run is using {cache}: wait for it, or choose another --cache."
            ) from error
        yield


def compare(
    engine: str, artifact: str, is_float: bool, cpu: str, expected: np.ndarray, found: np.ndarray
) -> Row:
    """Judge the logits ``found`` on a CPU model by those of the same file on this machine."""
    difference = float(np.abs(expected - found).max())
    agreement = float(np.mean(expected.argmax(axis=1) == found.argmax(axis=1)))
    passed = difference <= FLOAT_TOLERANCE if is_float else agreement >= LEAST_AGREEMENT
    return Row(engine, artifact, cpu, difference, agreement, bool(passed))


class Proof:
    """All that is tried; ``rows`` and ``failures`` say how it went."""

    def __init__(
        self, emulator: Emulator, root: Path, work: Path, cpus: list[str], arguments, report
    ):
        self._emulator, self._root, self._work, self._cpus = emulator, root, work, cpus
        self._arguments, self._report = arguments, report
        self.rows: list[Row] = []
        self.failures: list[str] = []

    def run(self) -> None:
        cache = self._root.parent
        digits = artifacts.digits_model(cache, self._report)
        model = Path(self._arguments.model) if self._arguments.model else digits
        self._images, _ = artifacts.images_of(self._arguments.data, model)
        np.save(self._work / "images.npy", self._images)
        shutil.copyfile(Path(__file__).with_name("guest.py"), self._work / "guest.py")
        self._wheel = artifacts.runtime_wheel(self._work)
        self._save_pictures()
        artifacts.copy_tests(self._work / "repository")
        for engine in ENGINES:
            self._prove(engine, digits, model)
        self._deploy(digits)

    def _prove(self, engine: Engine, digits: Path, model: Path) -> None:
        self._report(f"\n{engine.name}: exporting on this machine ...")
        folder = self._work / engine.name
        files = folder / "compared"
        artifacts.export_for(engine, model, self._arguments.data, files)
        self._make_environment(engine)
        if not self._arguments.no_tests:
            if model == digits:
                shutil.copytree(files, folder / "tests" / "exported")
            else:
                artifacts.export_for(engine, digits, "digits", folder / "tests" / "exported")
            self._run_tests(engine, digits, folder)
        names = sorted(p.name for p in files.iterdir() if p.suffix in (".tflite", ".onnx"))
        exact = {name: read_spec(files / name).export["quantization"] == "none" for name in names}
        expected = {
            name: Classifier.load(files / name, num_threads=1, batch_size=8).logits(self._images)
            for name in names
        }
        for cpu in self._cpus:
            self._report(f"{engine.name}, {cpu}: commands and logits ...")
            self._run_commands(engine, cpu, f"/work/{engine.name}/compared", names, expected)
            output = f"/work/{engine.name}/{cpu}.npz"
            if self._python(
                engine,
                cpu,
                "/work/guest.py",
                f"/work/{engine.name}/compared",
                "/work/images.npy",
                output,
            ):
                with np.load(folder / f"{cpu}.npz") as stored:
                    rows = [
                        compare(engine.name, n, exact[n], cpu, expected[n], stored[n])
                        for n in names
                    ]
                self.rows += rows
                self.failures += [
                    f"{r.engine}, {r.cpu}: {r.artifact} answers differently"
                    for r in rows
                    if not r.passed
                ]

    def _make_environment(self, engine: Engine) -> None:
        """A virtual environment in the root file system, kept there; the runtime is installed anew."""
        wheels = artifacts.engine_wheels(engine, self._root.parent, self._report)
        home = f"/opt/vitsd/{engine.name}"
        mark = self._root / home.lstrip("/") / "made-of"
        if not (mark.exists() and mark.read_text() == wheels.name):
            self._report(f"{engine.name}: making its environment ...")
            remove(self._root / home.lstrip("/"))
            self._must(["python3", "-m", "venv", home])
            install = [
                f"{home}/bin/pip",
                "install",
                "--quiet",
                "--no-compile",
                "--no-index",
                "--find-links",
                "/wheels",
            ]
            self._must(
                [*install, *engine.requirements, *artifacts.TESTS_NEED], binds={"/wheels": wheels}
            )
            mark.write_text(wheels.name)
        install = [
            f"{home}/bin/pip",
            "install",
            "--quiet",
            "--no-compile",
            "--no-index",
            "--no-deps",
            "--force-reinstall",
        ]
        self._must([*install, f"/work/{self._wheel.name}"])

    def _run_tests(self, engine: Engine, digits: Path, folder: Path) -> None:
        self._report(f"{engine.name}, {self._cpus[0]}: the runtime's tests ...")
        made = folder / "tests"
        shutil.copyfile(digits, made / "model.keras")
        images, labels = artifacts.images_of("digits", digits)
        np.savez(made / "digits.npz", images=images, labels=labels)
        variables = {"VITSD_TEST_ARTIFACTS": f"/work/{engine.name}/tests"}
        words = [
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-o",
            "timeout=1200",
            "-rf",
            "tests/runtime",
        ]
        done = self._guest(
            self._cpus[0],
            [self._interpreter(engine), *words],
            "/work/repository",
            variables,
            timeout=3600,
        )
        lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
        # "240 passed, 30 skipped in 99.9s": without the emulator's time.
        self._report(f"{engine.name}, {self._cpus[0]}: {lines[-1].partition(' in ')[0]}")
        passed, skipped = (
            int((re.search(rf"(\d+) {word}", lines[-1]) or [0, 0])[1])
            for word in ("passed", "skipped")
        )
        if (
            done.returncode or passed <= skipped
        ):  # with the wrong files at hand, nearly all would be skipped
            self._report(done.stdout[-6000:])
            self.failures.append(f"{engine.name}: tests failed: {lines[-1]}")

    def _run_commands(
        self, engine: Engine, cpu: str, folder: str, names: list[str], expected: dict
    ) -> None:
        for name in names:
            self._python(engine, cpu, "-m", "vitsd_runtime.cli.inspect", f"{folder}/{name}")
            answers = self._python(
                engine,
                cpu,
                "-m",
                "vitsd_runtime.cli.predict",
                f"{folder}/{name}",
                "/work/pictures",
                "--json",
            )
            if answers:
                found = [
                    json.loads(line)["predictions"][0]["index"] for line in answers.splitlines()
                ]
                if found != expected[name][:PICTURES].argmax(axis=1).tolist():
                    self.failures.append(
                        f"{engine.name}, {cpu}: vitsd-predict gives other answers with {name}"
                    )
        paths = [f"{folder}/{name}" for name in names]
        quick = ["--seconds", "0.05", "--batch-sizes", "1", "--json"]
        measured = self._python(engine, cpu, "-m", "vitsd_runtime.cli.bench", *paths, *quick)
        if measured and not json.loads(measured)["machine"].get("emulated"):
            self.failures.append(
                f"{engine.name}, {cpu}: vitsd-bench does not say that the CPU is emulated"
            )
        if measured and {row["model"] for row in json.loads(measured)["results"]} != set(names):
            self.failures.append(f"{engine.name}, {cpu}: vitsd-bench left out a model")

    def _deploy(self, digits: Path) -> None:
        """Export a deployment with its wheels; install and run it there, where there is no network."""
        from vitsd_export.deploy.bundle import deploy

        self._report(f"\nA deployment, installed without network on {self._cpus[0]} ...")
        model = self._work / ENGINES[0].name / "deployed"
        artifacts.export_for(Engine("", (), "tflite", ("int8",)), digits, "digits", model)
        deploy(model / "digits-int8.tflite", self._work / "deployment", [artifacts.GUEST])
        images, _ = artifacts.images_of("digits", digits)
        expected = Classifier.load(model / "digits-int8.tflite").predict(images[0], top_k=1)[0][0]
        Image.fromarray(images[0].squeeze()).save(self._work / "deployment" / "photo.png")
        for command in (["./install.sh"], ["./run.sh", "photo.png", "--top-k", "1"]):
            done = self._guest(self._cpus[0], command, "/work/deployment", {"TMPDIR": "/tmp"})
            self._report(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
            if done.returncode:
                self.failures.append(f"the deployment: {command[0]} failed")
                return
        if not done.stdout.startswith(f"photo.png: {expected.label} "):
            self.failures.append("the deployment answers differently")

    def _save_pictures(self) -> None:
        folder = self._work / "pictures"
        folder.mkdir()
        for i, image in enumerate(self._images[:PICTURES]):
            Image.fromarray(image.squeeze()).save(folder / f"{i}.png")

    def _interpreter(self, engine: Engine) -> str:
        return f"/opt/vitsd/{engine.name}/bin/python"

    def _guest(self, cpu, command, folder="/work", variables=None, binds=None, timeout=600):
        binds = {"/work": self._work, **(binds or {})}
        check_interrupted()
        return self._emulator.run(
            self._root,
            command,
            cpu=cpu,
            folder=folder,
            binds=binds,
            environment=variables,
            timeout=timeout,
        )

    def _python(self, engine: Engine, cpu: str, *words: str) -> str:
        """Run the environment's Python; returns what it printed, or notes a failure and returns nothing."""
        done = self._guest(cpu, [self._interpreter(engine), *words])
        if done.returncode:
            self.failures.append(
                f"{engine.name}, {cpu}: {' '.join(words[:3])}: {done.stderr.strip()[-300:]}"
            )
            return ""
        return done.stdout or " "

    def _must(self, command, binds=None) -> None:
        done = self._guest("max", command, binds=binds)
        if done.returncode:
            raise VitsdError(
                f"{' '.join(map(str, command))} failed on arm64: {(done.stdout + done.stderr).strip()[-1000:]}"
            )

    def print(self) -> None:
        cells = [
            [
                row.engine,
                row.artifact,
                row.cpu,
                f"{row.difference:.1e}",
                f"{100 * row.agreement:.1f}",
                "same" if row.passed else "DIFFERENT",
            ]
            for row in self.rows
        ]
        print()
        print(
            table(
                cells,
                ["engine", "artifact", "CPU model", "max |logit diff|", "agreement %", "verdict"],
            )
        )
        boards = ", ".join(f"{cpu}: {CPUS[cpu]}" for cpu in self._cpus if cpu in CPUS)
        print(
            f"{len(self._images)} real images, each file here and on emulated 64-bit Arm ({boards}). Demanded: float32 "
            f"logits within {FLOAT_TOLERANCE:g}, {100 * LEAST_AGREEMENT:.0f} % of the quantised top-1 answers equal."
        )
        for failure in self.failures:
            print(f"FAILED: {failure}")


if __name__ == "__main__":
    sys.exit(main())
