"""Where Arm programs can't be run, ``make arm64`` says so and is no failure. (What it proves, it proves by itself.)"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "tools" / "arm64"
not_on_arm = pytest.mark.skipif(
    platform.machine() == "aarch64", reason="there it is skipped for another reason"
)


@pytest.fixture
def arm64(tmp_path):
    def run(*arguments, user=None, **environment):
        variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment}
        words = [sys.executable, FOLDER / "run.py", *arguments]
        return subprocess.run(words, capture_output=True, text=True, env=variables, user=user)

    return run


@not_on_arm
def test_without_qemu_it_is_skipped_and_says_what_to_install(arm64, tmp_path):
    done = arm64(PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: ")
    assert ("apt install qemu-user-static" if os.geteuid() == 0 else "root") in done.stdout
    assert not (tmp_path / "cache").exists()


@not_on_arm
def test_what_does_not_work_here_is_skipped(arm64, tmp_path):
    if os.geteuid() == 0:
        (tmp_path / "qemu-aarch64-static").symlink_to("/bin/true")
        for tool in (
            "unshare",
            "setpriv",
        ):  # namespaces are made, and Arm programs can't be started in them
            (tmp_path / tool).symlink_to("/bin/true")
        done = arm64("--emulation", "explicit", PATH=str(tmp_path))  # there is no proot
        assert "does not work here" in done.stdout
    else:
        done = arm64()
        assert "root" in done.stdout
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: ")


def test_misuse_is_exit_code_2(arm64):
    assert arm64("--emulation", "magic").returncode == 2


def test_float_logits_must_be_near_and_quantised_answers_equal(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from run import compare

    logits = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    near, far = logits + np.float32(5e-5), logits.copy()
    far[0, 0] += 0.01
    for found, passes in ((logits, True), (near, True), (far, False)):
        assert compare("engine", "a.tflite", True, "cpu", logits, found).passed is passes
    other = logits.copy()
    other[:6] = -other[:6]  # 6 of 500 other answers
    assert compare("engine", "a.tflite", False, "cpu", logits, far).passed
    row = compare("engine", "a.tflite", False, "cpu", logits, other)
    assert row.agreement == pytest.approx(0.988)
    assert not row.passed
