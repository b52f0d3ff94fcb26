"""What all commands share: old names of options, what libraries log, exit codes."""

import argparse
import json
import logging
import os
import subprocess
import sys

import pytest
from PIL import Image

from vitsd_runtime import VitsdError
from vitsd_runtime.cli import app


def run(main, words, **options):
    parser = argparse.ArgumentParser(prog="vitsd-example")
    parser.add_argument("--new", type=int)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--json", action="store_true")
    return app.run(main, parser, words, distribution="vitsd-runtime", **options)


@pytest.mark.parametrize("words", [["--old", "3"], ["--old=3"]])
def test_an_old_name_works_and_says_so(capsys, words):
    seen = []
    assert run(lambda a: seen.append(a.new), words, renamed={"--old": "--new"}) == 0
    assert seen == [3]
    assert capsys.readouterr().err == "vitsd-example: note: --old is called --new now\n"


def test_libraries_log_and_commands_show_it(capsys):
    def main(arguments):
        logger = logging.getLogger("vitsd_export.exporter")
        logger.info("progress")
        logger.warning("something")

    assert run(main, []) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("progress\n", "warning: something\n")
    assert run(main, ["--json"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "progress\nwarning: something\n")
    logging.getLogger("vitsd_export").info("nobody listens after the command")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("target", "code", "message"), [("closed pipe", 141, ""), ("/dev/full", 1, "disk is full")]
)
def test_what_is_logged_ends_a_command_like_what_is_printed(tmp_path, target, code, message):
    program = tmp_path / "program.py"
    program.write_text(
        "import argparse, logging, sys\n"
        "from vitsd_runtime.cli import app\n"
        "def main(arguments):\n"
        "    for _ in range(10):\n"
        "        logging.getLogger('vitsd').info('progress')\n"
        "parser = argparse.ArgumentParser(prog='program')\n"
        "sys.exit(app.run(main, parser, [], distribution='vitsd-runtime'))\n"
    )
    if target == "closed pipe":
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open(target, os.O_WRONLY)
    with os.fdopen(write, "w") as stdout:
        command = [sys.executable, program]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_libraries_name_parameters_and_commands_options(capsys):
    def main(arguments):
        raise VitsdError("leave out `new=3`, or give `other`")

    assert run(main, []) == 1
    expected = "vitsd-example: error: leave out --new 3, or give `other`\n"
    assert capsys.readouterr().err == expected


def test_errors_are_one_line_and_an_exit_code(capsys):
    def main(arguments):
        raise VitsdError("it broke")

    assert run(main, []) == 1
    assert capsys.readouterr().err == "vitsd-example: error: it broke\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [(["--threads", "1"], ["--num-threads", "1"]), (["--fit", "crop"], ["--resize-mode", "crop"])],
)
def test_the_runtimes_old_options_work(command, exported_model, digits, tmp_path, old, new):
    Image.fromarray(digits.images[0, ..., 0]).resize((40, 60)).save(tmp_path / "a.png")
    words = ["vitsd-predict", exported_model("-float32.tflite", ".onnx"), tmp_path / "a.png"]
    before, after = (command(*words, *options, "--json") for options in (old, new))
    assert before.returncode == after.returncode == 0
    assert before.stdout == after.stdout
    assert f"{old[0]} is called {new[0]} now" in before.stderr
    assert after.stderr == ""


def test_a_changed_file_loads_unverified(command, exported_model):
    model = exported_model(".onnx")
    report = command("vitsd-inspect", model, "--no-verify", "--json")
    assert json.loads(report.stdout)["spec"]["name"] == "digits"
    assert "not checked" in command("vitsd-inspect", model, "--no-verify").stdout
