"""Where Arm programs can't be run, ``make arm64`` says so and is no failure. (What it proves, it proves by itself.)"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "arm64" / "run.py"


@pytest.fixture
def arm64(tmp_path):
    def run(*arguments, user=None, **environment):
        variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment}
        words = [sys.executable, SCRIPT, *arguments]
        return subprocess.run(words, capture_output=True, text=True, env=variables, user=user)

    return run


def test_without_qemu_it_is_skipped_and_says_what_to_install(arm64, tmp_path):
    done = arm64(PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: ")
    assert not (tmp_path / "cache").exists()


def test_what_does_not_work_here_is_skipped(arm64, tmp_path):
    if os.geteuid() == 0:
        (tmp_path / "qemu-aarch64-static").symlink_to("/bin/true")
        (tmp_path / "unshare").symlink_to("/bin/true")
        done = arm64("--emulation", "explicit", PATH=str(tmp_path))  # there is no proot
        assert "does not work here" in done.stdout
    else:
        done = arm64()
        assert "root" in done.stdout
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: ")


def test_misuse_is_exit_code_2(arm64):
    assert arm64("--emulation", "magic").returncode == 2
