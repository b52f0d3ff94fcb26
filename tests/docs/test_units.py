"""The units of the guide: what they start does what the guide says, and systemd takes them."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import pytest
from PIL import Image

from vitsd_runtime import bundled_model
from vitsd_runtime.cli import actions, agent, predict, serve

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
UNITS = {
    name: unit
    for guide in ("camera.md", "serve.md", "fleet.md")
    for name, unit in re.findall(
        r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```",
        (GUIDES / guide).read_text(),
        re.M | re.S,
    )
}
RESTARTS = "vitsd-restart.service"
"""Only root may do that."""
SERVICES = [name for name in UNITS if name.endswith(".service")]
PROGRAMS = {
    "/opt/vitsd/device/run.sh": predict.build_parser().parse_args,
    "/opt/vitsd/env/bin/vitsd-serve": serve.build_parser().parse_args,
    "/opt/vitsd/env/bin/vitsd-agent": lambda rest: actions.action_parser(
        "vitsd-agent", rest[0], agent.ACTIONS
    ).parse_args(rest[1:]),
    "/usr/bin/systemctl": lambda rest: None,
}


def service(name):
    parser = ConfigParser(strict=False)
    parser.optionxform = str
    parser.read_string(UNITS[name])
    return parser["Service"]


def words(name):
    return service(name)["ExecStart"].split()[1:]


@pytest.mark.parametrize("name", SERVICES)
def test_options_are_the_commands(name):
    program, *rest = service(name)["ExecStart"].split()
    PROGRAMS[program](rest)


@pytest.mark.parametrize("name", [name for name in SERVICES if name != RESTARTS])
def test_a_service_has_no_privileges(name):
    settings = service(name)
    assert settings.get("User") == "vitsd" or settings["DynamicUser"] == "yes"
    assert settings["ProtectSystem"] == "strict"
    assert settings["NoNewPrivileges"] == "yes"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_units(name, tmp_path):
    for each, content in UNITS.items():  # a timer needs its service
        unit = re.sub("^ExecStart=[^ ]+", "ExecStart=/bin/true", content, flags=re.M)
        (tmp_path / each).write_text(unit.replace("User=vitsd", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True
    )
    assert name not in done.stderr, done.stderr


@pytest.mark.slow
def test_the_inbox_is_answered_as_by_the_unit(tmp_path):
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "inbox").mkdir()
    command = [sys.executable, "-m", "vitsd_runtime.cli.predict", bundled_model()]
    process = subprocess.Popen(
        [*command, *words("vitsd-watch.service")], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        Image.new("RGB", (40, 30), "red").save(tmp_path / "inbox" / "a.png")
        lines = []
        end = time.monotonic() + 60
        while not lines and time.monotonic() < end:
            time.sleep(0.1)
            with contextlib.suppress(FileNotFoundError):
                lines = (tmp_path / "answers.jsonl").read_text().splitlines()
        assert json.loads(lines[0])["image"] == "a.png"
        assert len(json.loads(lines[0])["predictions"]) == 3
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
