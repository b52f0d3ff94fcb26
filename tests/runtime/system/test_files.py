"""Files are there whole or not at all, wherever they are to be written."""

import os
from pathlib import Path

import pytest

from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.files import atomic_write, check_writable, write_text


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
