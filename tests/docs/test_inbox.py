"""The inbox service of the Raspberry Pi guide, with a stand-in for the classifier."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "raspberry-pi.md"
CLASSIFIER = """#!/bin/sh
# As vitsd-predict: a line for each image; 1 if one can't be read, 139 if one crashes the decoder.
[ ! -e broken ] || exit 1
code=0
for file in $(find "$1" -type f | sort); do
    case "$file" in
        *crash*) exit 139 ;;
        *bad*) code=1; echo "{\\"image\\": \\"$file\\", \\"error\\": \\"bad\\"}" ;;
        *) echo "{\\"image\\": \\"$file\\"}" ;;
    esac
done
exit $code
"""


@pytest.fixture
def service(tmp_path):
    """Run the script of the guide in a folder of its own; returns its exit code."""
    if (
        not shutil.which("sh")
        or subprocess.run(["mv", "--version"], capture_output=True).returncode
    ):
        pytest.skip("needs a shell and GNU tools")
    (script,) = re.findall(r"^```sh\n(#!/bin/sh\n# /opt.*?)^```", GUIDE.read_text(), re.M | re.S)
    script = script.replace("/var/lib/vitsd", str(tmp_path))
    (tmp_path / "run.sh").write_text(CLASSIFIER)
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "service.sh").write_text(
        script.replace("/opt/vitsd/device/run.sh", str(tmp_path / "run.sh"))
    )
    (tmp_path / "inbox").mkdir()

    def run(*images):
        for name in images:
            (tmp_path / "inbox" / name).write_text(name)
        return subprocess.run(["sh", tmp_path / "service.sh"], capture_output=True).returncode

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def answered(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [Path(json.loads(line)["image"]).name for line in lines]


def test_unreadable_images_have_their_line(service, tmp_path):
    assert service("a.png", "-bad.png") == 0
    assert answered(tmp_path) == ["-bad.png", "a.png"]
    assert names(tmp_path / "done") == ["-bad.png", "a.png"]
    assert service() == 0


def test_an_image_that_crashes_the_decoder_does_not_block_the_others(service, tmp_path):
    assert service("a.png", "crash.png", "z.png") == 0
    assert answered(tmp_path) == ["a.png", "z.png"]
    assert names(tmp_path / "failed") == ["crash.png"]
    assert service("b.png") == 0
    assert answered(tmp_path) == ["a.png", "z.png", "b.png"]


def test_what_is_no_images_fault_keeps_them_for_the_next_run(service, tmp_path):
    (tmp_path / "broken").touch()
    assert service("a.png") == 1
    assert names(tmp_path / "work") == ["a.png"]
    (tmp_path / "broken").unlink()
    assert service("a.png") == 0
    assert names(tmp_path / "done") == ["a.png"]
