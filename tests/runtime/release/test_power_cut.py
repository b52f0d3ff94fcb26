"""The power is cut at every step that changes something on the disk."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "power_cut.py"


@pytest.fixture
def tmp_path(tmp_path):
    """In memory, where there is such a place: disks take their time to write."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as it:
        yield Path(it)


@pytest.fixture
def scenarios(tmp_path, publisher, device):
    """A folder with what was on a device before, for each scenario of the script."""

    def keep(name):
        shutil.copytree(device.folder, tmp_path / f"before-{name}", symlinks=True)

    (tmp_path / "before-first").mkdir()
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, b"two"))
    device.pull()
    keep("update")
    keep("rollback")
    (device.folder / "versions/2/model.tflite").write_bytes(b"damaged")
    keep("damaged")
    shutil.rmtree(device.folder)
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, b"two bad"))
    device.pull(try_model=lambda path: None)
    (device.folder / "versions/2/confirmed").unlink()
    keep("unconfirmed")
    publisher.index((3, b"three" * 9999))
    return tmp_path


@pytest.mark.slow
def test_after_a_power_cut_anywhere_one_version_is_whole_and_the_next_pull_works(
    scenarios, publisher
):
    done = subprocess.run(
        [sys.executable, SCRIPT, scenarios, publisher.key.hex()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, result in found.items():
        assert result["wrong"] == [], name
        assert result["steps"] > 10, name
