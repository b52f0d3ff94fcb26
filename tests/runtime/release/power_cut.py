"""Run an agent again and again, and cut its power at one step after the other.

``python power_cut.py FOLDER KEY``: FOLDER holds ``host`` and, for every scenario, ``before-NAME``.
A step is whatever changes something on the disk. In a cut, the process is killed; what was
written to files and not yet brought to the disk (fsync) may be lost, too: then such files are
empty. Prints JSON: the steps of each scenario, and what was found to be wrong.
"""

import builtins
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.release import agent
from vitsd_runtime.release.download import Host
from vitsd_runtime.release.store import Store

STEPS = ("replace", "rename", "symlink", "unlink", "rmdir", "mkdir", "fsync", "ftruncate")


def try_model(path):
    if b"bad" in path.read_bytes():
        raise VitsdError("bad")


def pull(root, device, key):
    host = Host((root / "host").as_uri(), 60)
    with Store(device) as store:
        agent.pull(host, store, agent.Policy([key], try_model=try_model))


def rollback(root, device, key):
    with Store(device) as store:
        agent.rollback(store)


KNOWN = {"state.json", "current", "version", "versions", "downloads", "1", "2", "3"}
SCENARIOS = {
    "first": (pull, {None, b"three" * 9999}, b"three" * 9999),
    "update": (pull, {b"two", b"three" * 9999}, b"three" * 9999),
    "damaged": (pull, {b"damaged", b"three" * 9999}, b"three" * 9999),
    "unconfirmed": (pull, {b"two bad", b"one", b"three" * 9999}, b"three" * 9999),
    "rollback": (rollback, {b"one", b"two"}, b"three" * 9999),
}
"""What is done, what may be in use after a cut, and what is in use after the next pull."""


class Power:
    """Counts steps; at one of them, the process ends."""

    def __init__(self, folder, last, lose):
        self.folder, self.left, self.lose = folder, last, lose
        self.unwritten = set()

    def step(self):
        self.left -= 1
        if self.left:
            return
        for path in self.folder.rglob("*") if self.lose else ():
            if path.is_file() and not path.is_symlink() and path.stat().st_ino in self.unwritten:
                os.truncate(path, 0)
        os.kill(os.getpid(), signal.SIGKILL)

    def before(self, function):
        def stepped(*arguments, **options):
            self.step()
            result = function(*arguments, **options)
            if function is self.fsync:
                self.unwritten.discard(os.fstat(arguments[0]).st_ino)
            return result

        return stepped

    def opening(self, function):
        def opened(path, mode="r", *arguments, **options):
            number = isinstance(mode, int)
            writes = mode & os.O_CREAT if number else set(mode) & set("wax+")
            if writes:
                self.step()
            result = function(path, mode, *arguments, **options)
            if writes:
                self.unwritten.add(os.stat(result if number else result.fileno()).st_ino)
            return result

        return opened

    def connect(self):
        self.fsync = os.fsync
        for name in STEPS:
            setattr(os, name, self.before(getattr(os, name)))
        os.open = self.opening(os.open)
        io.open = builtins.open = self.opening(io.open)


def content(device):
    current = Store(device).current()
    return current and current.path.read_bytes()


def cut(root, device, key, name, last, lose):
    """Whether it was cut, and what is wrong after that."""
    work, allowed, newest = SCENARIOS[name]
    shutil.rmtree(device, ignore_errors=True)
    shutil.copytree(root / f"before-{name}", device, symlinks=True)
    child = os.fork()
    if not child:
        try:
            Power(device, last, lose).connect()
            work(root, device, key)
        except VitsdError:
            os._exit(3)  # as it should in some scenarios
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    where = f"{name}, step {last}{', unwritten data lost' if lose else ''}"
    wrong = []
    if content(device) not in allowed:
        wrong.append(f"{where}: in use is {content(device)!r:.40}")
    for abandoned in device.rglob(".vitsd-tmp-*"):
        os.utime(abandoned, (0, 0))  # new ones might be somebody's who is at work
    try:
        try:
            pull(root, device, key)
        except VitsdError:  # what was in use was never confirmed, and is given up
            pull(root, device, key)
    except Exception as error:
        wrong.append(f"{where}: the next pull fails: {error!r}")
    if content(device) != newest:
        wrong.append(f"{where}: after the next pull, {content(device)!r:.40}")
    left = {p.name for p in (*device.iterdir(), *(device / "versions").iterdir())} - KNOWN
    if left or any((device / "downloads").iterdir()):
        wrong.append(f"{where}: left behind is {left}")
    return os.WIFSIGNALED(status), wrong


def main(folder, key):
    root, found = Path(folder), {}
    for name in SCENARIOS:
        last, wrong = 0, []
        running = True
        while running:
            last += 1
            running = False
            for lose in (False, True):
                killed, more = cut(root, root / "device", bytes.fromhex(key), name, last, lose)
                running, wrong = running or killed, wrong + more
        found[name] = {"steps": last - 1, "wrong": wrong}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
