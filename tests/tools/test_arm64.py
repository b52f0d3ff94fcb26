"""Where Arm programs can't be run, ``make arm64`` says so and does not fail."""

import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
not_on_arm = pytest.mark.skipif(
    platform.machine() == "aarch64", reason="there it is skipped for another reason"
)


@pytest.fixture
def arm64(tmp_path):
    def run(*arguments, user=None, **environment):
        variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment}
        words = [sys.executable, ROOT / "tools" / "arm64" / "run.py", *arguments]
        return subprocess.run(words, capture_output=True, text=True, env=variables, user=user)

    return run


@pytest.fixture
def arm64_modules(monkeypatch):
    """A function that imports a module of tools/arm64."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"tools.arm64.{name}")


@not_on_arm
def test_without_qemu_it_is_skipped_and_says_what_to_install(arm64, tmp_path):
    done = arm64(PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: ")
    assert ("apt install qemu-user-static" if os.geteuid() == 0 else "root") in done.stdout
    assert not (tmp_path / "cache").exists()


@not_on_arm
@pytest.mark.skipif(os.geteuid() != 0, reason="without root, that is the reason")
def test_a_kernel_that_can_not_register_qemu_is_named(arm64, tmp_path):
    # Namespaces seem to be made, but Arm programs can't be started in them.
    for tool in ("qemu-aarch64-static", "unshare", "setpriv"):
        (tmp_path / tool).symlink_to("/bin/true")
    done = arm64(PATH=str(tmp_path))
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: qemu can't be registered")
    assert "6.7" in done.stdout


@not_on_arm
@pytest.mark.skipif(os.geteuid() == 0, reason="needs another user than root")
def test_without_root_it_is_skipped(arm64):
    done = arm64()
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: ")
    assert "root" in done.stdout


def test_with_json_the_reason_is_on_stderr(arm64, tmp_path):
    done = arm64("--json", PATH=str(tmp_path))
    assert done.returncode == 0
    assert done.stdout == ""
    assert done.stderr.startswith("skipped: ")


@pytest.mark.parametrize(
    "arguments", [["--emulation", "magic"], ["--cpus"], ["--seeds", "a"], ["model.keras"]]
)
def test_misuse_is_exit_code_2(arm64, arguments):
    assert arm64(*arguments).returncode == 2


def test_an_unknown_cpu_model_is_exit_code_2(monkeypatch, arm64_modules):
    run = arm64_modules("run")
    monkeypatch.setattr(run, "check_available", lambda: None)
    monkeypatch.setattr(run, "cpu_models", lambda: {"cortex-a72", "max"})
    assert run.main(["--cpus", "cortex-a72,abacus"]) == 2


@pytest.mark.slow
def test_what_the_guest_gets_is_enough_for_the_runtimes_tests(arm64_modules, tmp_path):
    arm64_modules("artifacts").copy_tests(tmp_path / "repository")
    # No trainer and no exporter, as there; the modules are the copied ones.
    code = "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    some = ["tests/runtime", "-k", "test_preprocessing or test_imports"]  # all are collected
    words = ["-p", "no:cacheprovider", "-p", "no:xdist", *some]
    blocked = "import sys; sys.modules.update(vitsd=None, vitsd_export=None); "
    done = subprocess.run(
        [sys.executable, "-c", blocked + code, *words],
        cwd=tmp_path / "repository",
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path / "repository" / "runtime" / "src"),
            "VITSD_TEST_ARTIFACTS": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_float_logits_must_be_near_and_quantized_answers_equal(arm64_modules):
    reference = arm64_modules("proof").Reference
    logits = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    near, far = logits + np.float32(5e-5), logits.copy()
    far[0, 0] += 0.01
    float_file = reference("seed-1", "a.tflite", True, logits)
    for found, passes in ((logits, True), (near, True), (far, False)):
        assert float_file.compare("engine", "cpu", found).passed is passes
    other = logits.copy()
    other[:6] = -other[:6]  # 6 of 500 other answers
    quantized_file = reference("seed-1", "a.tflite", False, logits)
    assert quantized_file.compare("engine", "cpu", far).passed
    row = quantized_file.compare("engine", "cpu", other)
    assert (row.model, row.artifact) == ("seed-1", "a.tflite")
    assert row.agreement == pytest.approx(0.988)
    assert not row.passed
