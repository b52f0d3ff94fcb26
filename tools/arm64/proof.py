"""Try everything on the emulated machine, and compare it with this one."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tools.arm64 import artifacts
from tools.arm64.artifacts import ENGINES, PICTURES, Engine, Materials
from tools.arm64.device import Device
from vitsd.evaluation.metrics import agreement
from vitsd_export.deploy import deploy
from vitsd_runtime import Classifier
from vitsd_runtime.formats import require_spec
from vitsd_runtime.models.catalog import BUNDLED
from vitsd_runtime.types import AnyArray

FLOAT_TOLERANCE = 1e-4
"""Largest difference of a float32 logit."""
LEAST_AGREEMENT = 0.99
"""Of the top-1 answers of quantized models."""
_log = logging.getLogger("vitsd.tools.arm64")


@dataclass(frozen=True)
class Row:
    """One artifact on one CPU model, compared with the same file on this machine."""

    engine: str
    model: str
    artifact: str
    cpu: str
    difference: float
    """Largest absolute difference of a logit."""
    agreement: float
    """Fraction of images with the same top-1 answer."""
    passed: bool


@dataclass(frozen=True)
class Reference:
    """What an exported file answers on this machine."""

    model: str
    """Which trained model it is of."""
    name: str
    """Of the file."""
    is_float: bool
    """Whether it is not quantized."""
    logits: AnyArray
    """float32 ``(images, classes)``."""

    def compare(self, engine: str, cpu: str, logits: AnyArray) -> Row:
        """Judge the logits that the same file gave on a CPU model."""
        difference = float(np.abs(self.logits - logits).max())
        same = agreement(logits, self.logits)
        passed = difference <= FLOAT_TOLERANCE if self.is_float else same >= LEAST_AGREEMENT
        return Row(engine, self.model, self.name, cpu, difference, same, passed)


class Proof:
    """All that is tried; ``rows`` and ``failures`` say how it went.

    Args:
        device: the emulated machine.
        materials: what it gets; ``materials.work`` is the device's /work.
        cache: for wheels.
        cpus: CPU models of qemu.
    """

    def __init__(
        self, device: Device, materials: Materials, cache: Path, cpus: Sequence[str]
    ) -> None:
        self._device, self._cache, self._cpus = device, cache, cpus
        self.materials = materials
        self.rows: list[Row] = []
        self.failures: list[str] = []

    def run(self, with_tests: bool) -> None:
        """Try every engine, then a deployment; ``with_tests``: the runtime's test suite too."""
        for engine in ENGINES:
            self._make_environment(engine)
            references = {name: self._export(engine, name) for name in self.materials.models}
            first = next(iter(references))
            if with_tests:
                self._run_tests(engine, self._files(engine, first))
            for cpu in self._cpus:
                _log.info("%s, %s: commands and logits ...", engine.name, cpu)
                self._try_commands(engine, cpu, references[first])
                for of_model in references.values():
                    self._compare_logits(engine, cpu, of_model)
        self._try_deployment()

    def _files(self, engine: Engine, model: str) -> Path:
        """Folder of the exported files that are compared."""
        return self.materials.work / engine.name / model

    def _export(self, engine: Engine, model: str) -> list[Reference]:
        _log.info("\n%s: exporting %s on this machine ...", engine.name, model)
        files = self._files(engine, model)
        artifacts.export_for(engine, self.materials.models[model], self.materials.data, files)
        return self._references(model, files)

    def _make_environment(self, engine: Engine) -> None:
        wheels = artifacts.engine_wheels(engine, self._cache)
        if not self._device.has_environment(engine, wheels):
            _log.info("%s: making its environment ...", engine.name)
            self._device.make_environment(engine, wheels)
        self._device.install(engine, self.materials.wheel)

    def _run_tests(self, engine: Engine, files: Path) -> None:
        """The runtime's test suite, with what it needs that is made by trainer and exporter."""
        cpu, digits = self._cpus[0], self.materials.digits
        _log.info("%s, %s: the runtime's tests ...", engine.name, cpu)
        folder = self.materials.work / engine.name / "tests"
        if digits in self.materials.models.values():
            shutil.copytree(files, folder / "exported")
        else:
            artifacts.export_for(engine, digits, "digits", folder / "exported")
        shutil.copyfile(digits, folder / "model.keras")
        images, labels = artifacts.load_images("digits", digits)
        np.savez(folder / "digits.npz", images=images, labels=labels)
        options = ("-p", "no:cacheprovider", "-o", "timeout=1200", "-rf")
        done = self._device.python(
            engine,
            cpu,
            *("-m", "pytest", *options, "tests/runtime"),
            folder="/work/repository",
            environment={"VITSD_TEST_ARTIFACTS": f"/work/{engine.name}/tests"},
            timeout=3600,
        )
        lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
        # "240 passed, 30 skipped in 99.9s": without the emulator's time.
        _log.info("%s, %s: %s", engine.name, cpu, lines[-1].partition(" in ")[0])
        # With the wrong files at hand, nearly all would be skipped.
        too_few = _count("passed", lines[-1]) <= _count("skipped", lines[-1])
        if done.returncode or too_few:
            _log.info("%s", done.stdout[-6000:])
            self.failures.append(f"{engine.name}: tests failed: {lines[-1]}")

    def _references(self, model: str, files: Path) -> list[Reference]:
        references = []
        for path in sorted(p for p in files.iterdir() if p.suffix in (".tflite", ".onnx")):
            export = require_spec(path).export
            classifier = Classifier.load(path, num_threads=1, batch_size=8)
            references.append(
                Reference(
                    model,
                    path.name,
                    is_float=export is None or export.quantization == "none",
                    logits=classifier.logits(self.materials.images),
                )
            )
        return references

    def _try_commands(self, engine: Engine, cpu: str, references: Sequence[Reference]) -> None:
        folder = f"/work/{engine.name}/{references[0].model}"
        for reference in references:
            path = f"{folder}/{reference.name}"
            self._python(engine, cpu, "-m", "vitsd_runtime.cli.inspect", path)
            self._verify(engine, cpu, path)
            words = ("-m", "vitsd_runtime.cli.predict", path, "/work/pictures", "--json")
            answers = self._python(engine, cpu, *words)
            expected = reference.logits[:PICTURES].argmax(axis=1).tolist()
            if answers is not None and _best_classes(answers) != expected:
                self._fail(engine, cpu, f"vitsd-predict gives other answers with {reference.name}")
        if engine.format == "tflite":
            self._verify(engine, cpu, BUNDLED)
        self._try_bench(engine, cpu, folder, [reference.name for reference in references])

    def _verify(self, engine: Engine, cpu: str, model: str) -> None:
        words = [] if model == BUNDLED else [model]
        report = self._python(engine, cpu, "-m", "vitsd_runtime.cli.verify", *words, "--json")
        if report is not None:
            details = {stage["name"]: stage["detail"] for stage in json.loads(report)["stages"]}
            _log.info("%s: verified, logits %s", model, details["logits"])

    def _try_bench(self, engine: Engine, cpu: str, folder: str, names: list[str]) -> None:
        paths = [f"{folder}/{name}" for name in names]
        quick = ("--seconds", "0.05", "--batch-sizes", "1", "--json")
        output = self._python(engine, cpu, "-m", "vitsd_runtime.cli.bench", *paths, *quick)
        if output is None:
            return
        report = json.loads(output)
        if not report["machine"].get("emulated"):
            self._fail(engine, cpu, "vitsd-bench does not say that the CPU is emulated")
        if {row["model"] for row in report["results"]} != set(names):
            self._fail(engine, cpu, "vitsd-bench left out a model")

    def _compare_logits(self, engine: Engine, cpu: str, references: Sequence[Reference]) -> None:
        folder = f"/work/{engine.name}"
        model, output = references[0].model, f"{references[0].model}-{cpu}.npz"
        words = ("/work/guest.py", f"{folder}/{model}", "/work/images.npy", f"{folder}/{output}")
        if self._python(engine, cpu, *words) is None:
            return
        with np.load(self.materials.work / engine.name / output) as stored:
            rows = [
                reference.compare(engine.name, cpu, stored[reference.name])
                for reference in references
            ]
        self.rows += rows
        for row in rows:
            if not row.passed:
                self._fail(engine, cpu, f"{row.model}, {row.artifact} answers differently")

    def _try_deployment(self) -> None:
        """Make a deployment with its wheels; install and run it where there is no network."""
        cpu, work, digits = self._cpus[0], self.materials.work, self.materials.digits
        _log.info("\nA deployment, installed without network on %s ...", cpu)
        folder = work / "deployed"
        artifacts.export_for(Engine("", (), "tflite", ("int8",)), digits, "digits", folder)
        model = folder / "digits-int8.tflite"
        deployment = deploy(model, work / "deployment", [artifacts.GUEST])
        images, _ = artifacts.load_images("digits", digits)
        expected = Classifier.load(model).predict(images[0], top_k=1)[0][0]
        Image.fromarray(images[0].squeeze()).save(deployment / "photo.png")
        output = ""
        words = ["photo.png", "--top-k", "1", "--min-confidence", "0"]
        for command in (["./install.sh"], ["./run.sh", *words]):
            environment = {"TMPDIR": "/tmp"}
            done = self._device.run(
                cpu, command, folder="/work/deployment", environment=environment
            )
            _log.info("%s: %s", " ".join(command), (done.stdout + done.stderr).strip())
            if done.returncode:
                self.failures.append(f"the deployment: {command[0]} failed")
                return
            output = done.stdout
        if not output.startswith(f"photo.png: {expected.label} "):
            self.failures.append("the deployment answers differently")

    def _python(self, engine: Engine, cpu: str, *words: str) -> str | None:
        """What Python printed; None, and a failure is noted, if it failed."""
        done = self._device.python(engine, cpu, *words)
        if done.returncode:
            self._fail(engine, cpu, f"{' '.join(words[:3])}: {done.stderr.strip()[-300:]}")
            return None
        return done.stdout

    def _fail(self, engine: Engine, cpu: str, what: str) -> None:
        self.failures.append(f"{engine.name}, {cpu}: {what}")


def _count(word: str, summary: str) -> int:
    """A number in pytest's last line."""
    match = re.search(rf"(\d+) {word}", summary)
    return int(match[1]) if match else 0


def _best_classes(json_lines: str) -> list[int]:
    return [json.loads(line)["predictions"][0]["index"] for line in json_lines.splitlines()]
