"""What all commands share: old names of options, what libraries log, exit codes."""

import argparse
import json
import logging
import os
import subprocess
import sys
import warnings

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


def test_pillow_says_nothing_of_a_file_in_between(recwarn):
    def main(arguments):
        warnings.warn_explicit("an image of many pixels", UserWarning, "Image.py", 1, "PIL.Image")
        warnings.warn_explicit("something else", UserWarning, "other.py", 1, "other")

    assert run(main, []) == 0
    assert [str(warning.message) for warning in recwarn] == ["something else"]


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


def test_warnings_name_options_as_the_command_does(capsys):
    def main(arguments):
        logging.getLogger("vitsd").warning("use `json` or `words=a`, not `jsons` of %s", "`json`")

    assert run(main, []) == 0
    expected = "warning: use --json or --words a, not `jsons` of --json\n"
    assert capsys.readouterr().err == expected


PROGRAM_THAT_TALKS = """
import argparse, logging, sys
from vitsd_runtime.cli import app
def main(arguments):
    for _ in range(10):
        print("error: one of many", file=sys.stderr)
        logging.getLogger("vitsd").info("progress")
        logging.getLogger("vitsd").warning("attention")
    return 3
parser = argparse.ArgumentParser(prog="program")
sys.exit(app.run(main, parser, [], distribution="vitsd-runtime"))
"""


def open_unwritable(target):
    if target != "closed pipe":
        return open(target, "w")
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


@pytest.mark.parametrize(
    ("target", "code", "message"), [("closed pipe", 141, ""), ("/dev/full", 1, "disk is full")]
)
def test_what_is_logged_ends_a_command_like_what_is_printed(target, code, message):
    command = [sys.executable, "-c", PROGRAM_THAT_TALKS]
    with open_unwritable(target) as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("target", ["closed pipe", "/dev/full"])
def test_messages_that_can_not_be_written_end_no_work(target):
    command = [sys.executable, "-c", PROGRAM_THAT_TALKS]
    with open_unwritable(target) as stderr:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert done.returncode == 3
    assert done.stdout == 10 * "progress\n"


def test_a_message_is_written_again_when_there_is_room():
    program = """
import argparse, os, sys
from vitsd_runtime.cli import app
def main(arguments):
    print("lost", file=sys.stderr)
    os.dup2(1, 2)
    print("message", file=sys.stderr)
sys.exit(app.run(main, argparse.ArgumentParser(), [], distribution="vitsd-runtime"))
"""
    with open_unwritable("/dev/full") as stderr:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert (done.returncode, done.stdout) == (0, "message\n")


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
    ("error", "message"),
    [
        (KeyError("what\x1b[2J\nis this"), "KeyError: 'what\\x1b[2J\\nis this'"),
        (ValueError("two\nlines \x9b"), "ValueError: two (nobody"),
        (RecursionError(), "RecursionError: RecursionError"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_nobody_foresaw_is_one_line(capsys, monkeypatch, error, message):
    def main(arguments):
        raise error

    monkeypatch.delenv("VITSD_DEBUG", raising=False)
    assert run(main, []) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"vitsd-example: error: {message}")
    assert said.count("\n") == 1
    assert said.strip().isprintable()
    monkeypatch.setenv("VITSD_DEBUG", "1")
    assert run(main, []) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert message in said
    assert said.replace("\n", "").isprintable()


def test_nothing_that_is_shown_moves_the_cursor(capsys):
    def main(arguments):
        logging.getLogger("vitsd").info("read\x1b[1A\nsecond line")
        logging.getLogger("vitsd").warning("skipped\r\x9b2J")
        raise VitsdError("can't open \x1b]0;title\x07\u202e\nsecond line")

    assert run(main, []) == 1
    shown = capsys.readouterr()
    assert shown.out == "read\\x1b[1A\nsecond line\n"
    assert shown.err == (
        "warning: skipped\\r\\x9b2J\n"
        "vitsd-example: error: can't open \\x1b]0;title\\x07\\u202e\nsecond line\n"
    )
    with pytest.raises(SystemExit):
        run(main, ["--\x1b[2J.png"])
    assert "unrecognized arguments: --\\x1b[2J.png" in capsys.readouterr().err


PROGRAM = """
import argparse, json, logging, os, sys
from vitsd_runtime.cli import app
def main(arguments):
    with open(arguments.file, "w") as file:
        file.write("one ")
        print(json.dumps("answer"), flush=True)
        print("message", file=sys.stderr)
        logging.getLogger("vitsd").warning("warning")
        os.write(1, b"")
        os.write(2, b"native message\\n")
        file.write(f"two {sys.stdin.read()!r}")
    return 3
parser = argparse.ArgumentParser(prog="program")
parser.add_argument("file")
parser.add_argument("--json", action="store_true")
sys.exit(app.run(main, parser, None, distribution="vitsd-runtime"))
"""


@pytest.mark.parametrize(
    "closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]
)
def test_closed_streams_are_as_if_nobody_listened(tmp_path, closed):
    (tmp_path / "program.py").write_text(PROGRAM)
    python = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable]
    probe = [*python, "-c", "import os; os.fstat(0)"]
    if "<&-" in closed and subprocess.run(probe, capture_output=True).returncode == 0:
        pytest.skip("an emulator opens the program in place of a closed stream")
    words = [*python, "program.py", "file", "--json"]
    done = subprocess.run(words, cwd=tmp_path, input="", capture_output=True, text=True)
    assert done.returncode == 3
    assert (tmp_path / "file").read_text() == "one two ''"
    assert done.stdout == ("" if ">&-" in closed.split() else '"answer"\n')
    said = "message\nwarning: warning\nnative message\n"
    assert done.stderr == ("" if "2>&-" in closed else said)


COMMANDS = {
    "vitsd_runtime.cli": ("predict", "bench", "inspect", "verify"),
    "vitsd.cli": ("train", "evaluate", "explain"),
    "vitsd_export.cli": ("export", "parity", "import_"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [f"{package}.{name}" for package, names in COMMANDS.items() for name in names]
)
def test_every_command_ends_quietly_where_all_streams_are_closed(tmp_path, command):
    # Not "vitsd" alone: without the package, that is a folder of the repository.
    pytest.importorskip(command.rpartition(".")[0])
    shell = 'exec "$@" 2>error <&- >&-'
    words = [sys.executable, "-m", command, "--no-such-option"]
    done = subprocess.run(["sh", "-c", shell, "sh", *words], cwd=tmp_path)
    assert done.returncode == 2
    said = (tmp_path / "error").read_text()
    assert said.startswith("usage: ")
    assert "Traceback" not in said
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words], cwd=tmp_path)
    assert done.returncode == 2


@pytest.mark.parametrize("module", ["PIL", "onnxruntime", "ai_edge_litert", "tflite_runtime"])
def test_a_module_beside_the_photos_is_not_imported(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("open('was-run', 'w')")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    code = "import sys; from vitsd_runtime.cli.predict import main; sys.exit(main())"
    for start in (["-m", "vitsd_runtime.cli.predict"], ["-c", code]):
        words = [sys.executable, *start, "a.png"]
        subprocess.run(words, cwd=tmp_path, capture_output=True)
        assert not (tmp_path / "was-run").exists()


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
