"""Signals to commands: the first one cleans up, a second one always ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")

START = """
import argparse, hashlib, os, sys, time
from vitsd_runtime.cli import app
def main(arguments):
    print("started", flush=True)
    work()
def native():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # hours
"""
END = """
sys.exit(app.run(main, argparse.ArgumentParser("program"), [], distribution="vitsd-runtime"))
"""


@pytest.fixture
def start():
    running = []

    def run(program):
        process = subprocess.Popen(
            [sys.executable, "-c", START + program + END],
            stdout=subprocess.PIPE,
            text=True,
            # Tests that run in the background inherit that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        running.append(process)
        assert process.stdout.readline() == "started\n"
        time.sleep(0.1)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGTERM", 143), ("SIGINT", "SIGTERM", 143)],
)
@pytest.mark.parametrize("pause", [0.05, 1.5])
def test_a_second_signal_ends_native_code(start, first, second, code, pause):
    process = start("work = native")
    process.send_signal(getattr(signal, first))
    time.sleep(pause)
    assert process.poll() is None
    process.send_signal(getattr(signal, second))
    assert process.wait(timeout=60) == code


def test_the_same_signal_twice_at_once_still_cleans_up(start, tmp_path):
    program = f"""
def work():
    try:
        time.sleep(100)
    finally:
        time.sleep(0.3)
        open({str(tmp_path / "cleaned")!r}, "w").close()
"""
    process = start(program)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    assert process.wait(timeout=60) == 143
    assert (tmp_path / "cleaned").exists()


def test_signals_of_children_do_not_count(start):
    program = """
def work():
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                time.sleep(100)
            finally:
                os._exit(7)
        time.sleep(0.2)
        os.kill(child, 15)
        assert os.waitpid(child, 0)[1] >> 8 == 7
    print("still here", flush=True)
    time.sleep(1.5)
"""
    process = start(program)
    assert process.stdout.readline() == "still here\n"
    assert process.wait(timeout=60) == 0
