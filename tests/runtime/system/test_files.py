"""Files are there whole or not at all, wherever they are to be written."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from vitsd_runtime.errors import UsageError
from vitsd_runtime.system import files
from vitsd_runtime.system.files import (
    atomic_write,
    check_writable,
    locked,
    temporary_folder,
    write_text,
)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "a.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="no devices here")
def test_a_device_is_not_replaced(tmp_path):
    (tmp_path / "device").symlink_to(
        "/dev/null"
    )  # as root, a defect could replace the real one: fail before that
    for ask in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(UsageError, match="/dev/null is neither a file nor a folder"):
            ask(tmp_path / "device")


def test_what_can_not_be_written_is_known_before(tmp_path):
    (tmp_path / "file").write_text("old")
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "folders" / "file")
    assert not (tmp_path / "new").exists()
    for path in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="folder"):
            check_writable(path)
        with pytest.raises(UsageError, match="folder"):
            write_text(path, "text")
    check_writable(tmp_path, folder=True)
    with pytest.raises(UsageError, match="is a file, where a folder is to be written"):
        check_writable(tmp_path / "file", folder=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_no_permission_is_known_before(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        check_writable(tmp_path / "file")


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(OSError, match="nothing here") as error, atomic_write(path) as temporary:
        raise FileNotFoundError(2, "nothing here", str(temporary))
    assert error.value.filename == str(path)


def test_a_name_inside_a_folder_is_that_of_the_folder_that_was_asked_for(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(OSError, match="disk is full") as error, atomic_write(path) as temporary:
        raise OSError(28, "disk is full", str(temporary / "variables"))
    assert error.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def write_folder(path, text):
    with atomic_write(path) as temporary:
        temporary.mkdir()
        (temporary / "a").write_text(text)


@pytest.fixture
def no_exchange(monkeypatch):
    """A system, or a file system, that can't exchange two folders in one step."""

    def fail(first, second):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(files, "_exchange", fail)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges folders in one step")
def test_a_folder_that_is_replaced_is_never_missing(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write_folder(path, "old")
    present = []

    def followed(step):
        return lambda first, second: (step(first, second), present.append(path.is_dir()))

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, followed(getattr(os, name)))
    write_folder(path, "new")
    assert all(present)
    assert (path / "a").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_where_folders_can_not_be_exchanged(tmp_path, no_exchange):
    path = tmp_path / "model"
    for text in ("old", "new"):
        write_folder(path, text)
        assert (path / "a").read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def killed(tmp_path, code: str) -> None:
    """Run code that kills its own process."""
    lines = f"""
import os, sys
from pathlib import Path
from vitsd_runtime.system import files
path = Path(sys.argv[1])
def die(*_):
    os.kill(os.getpid(), {int(signal.SIGKILL)})
{code}
"""
    done = subprocess.run([sys.executable, "-c", lines, tmp_path / "model"])
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def at_once(monkeypatch):
    """Temporary folders count as abandoned as soon as their process is dead."""
    monkeypatch.setattr(files, "_NEW", -1)


WRITES = "with files.atomic_write(path) as t:\n    t.mkdir(); (t / 'a').write_text('new'); "


def test_what_killed_processes_left_is_removed_by_the_next_write(tmp_path, at_once):
    killed(tmp_path, WRITES + "die()")
    assert len(list(tmp_path.iterdir())) == 1
    write_text(tmp_path / "other", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_was_moved_out_of_the_way_is_put_back(tmp_path, at_once):
    write_folder(tmp_path / "model", "old")
    unable = "def unable(*_): raise OSError\nfiles._exchange = unable\n"
    dies = "rename = os.rename\nos.rename = lambda a, b: (rename(a, b), die())\n"
    killed(tmp_path, unable + dies + WRITES)
    assert not (tmp_path / "model").exists()
    write_text(tmp_path / "other", "text")
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


def test_only_abandoned_folders_of_ours_are_removed(tmp_path, at_once):
    (tmp_path / ".tmp-1").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".vitsd-tmp-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".vitsd-tmp-file").write_text("text")
    with temporary_folder(tmp_path) as folder:
        before = sorted(tmp_path.iterdir())
        write_text(tmp_path / "other", "text")
        assert folder.is_dir()
        assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "other"])
    assert not folder.exists()


def test_a_temporary_folder_is_locked_although_another_process_looks_at_it(tmp_path, monkeypatch):
    make, others = tempfile.mkdtemp, []

    def make_and_look(**options):
        folder = Path(make(**options))
        looks = threading.Event()

        def look():
            with locked(folder):
                looks.set()
                time.sleep(0.2)

        others.append(threading.Thread(target=look))
        others[0].start()
        looks.wait()
        return str(folder)

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_look)
    with temporary_folder(tmp_path) as folder:
        others[0].join()
        with pytest.raises(BlockingIOError), locked(folder):
            pass
