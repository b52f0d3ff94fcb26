"""What a device takes, refuses, and goes back from."""

import json
import os
import shutil
import time
from types import SimpleNamespace

import pytest

from vitsd_runtime import UsageError, VitsdError
from vitsd_runtime.release import agent, envelope
from vitsd_runtime.release.keys import encode, public_of
from vitsd_runtime.release.store import Store


def statement_of_keys(root, release, index, version=1, expires=None):
    content = {
        "version": version,
        "expires": int(time.time()) + 1000 if expires is None else expires,
        "release": [encode(public_of(seed)) for seed in release],
        "index": [encode(public_of(seed)) for seed in index],
    }
    return envelope.seal("keys", content, root)


def test_versions_follow_each_other_and_one_is_kept(publisher, device):
    publisher.index((1, b"one"))
    assert "version 1 is in use now" in device.pull()
    assert "up to date" in device.pull()
    for version in (2, 3):
        publisher.index((version, b"content %d" % version))
        assert f"version {version} is in use now" in device.pull()
    assert device.in_use() == b"content 3"
    assert (device.folder / "current" / "model.tflite").exists()
    assert sorted(os.listdir(device.folder / "versions")) == ["2", "3"]
    assert os.listdir(device.folder / "downloads") == []
    assert (device.folder / "version").read_text() == "3\n"
    state = device.state()
    assert (state["version"], state["previous"], state["serial"]) == (3, 2, 3)
    assert state["last_error"] == ""


def test_a_release_that_does_not_work_is_never_in_use_and_not_tried_again(publisher, device):
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, b"bad"))
    with pytest.raises(VitsdError, match="Version 2 is given up: it does not work here: logits"):
        device.pull()
    assert device.in_use() == b"one"
    assert "off by 99" in device.state()["last_error"]
    assert "off by 99" in device.pull()  # says why there is nothing for it
    assert device.in_use() == b"one"
    with pytest.raises(VitsdError, match="given up"):
        device.pull(retry=True)
    publisher.index((3, b"three"))
    device.pull()
    assert device.in_use() == b"three"


def test_the_check_of_the_programs_brings_the_old_one_back(publisher, device):
    publisher.index((1, b"one"))
    device.pull(check="true")
    publisher.index((2, b"two"))
    with pytest.raises(VitsdError, match=r"`check` failed: exit code 1. Version 1 is in use again"):
        device.pull(check="false")
    assert device.in_use() == b"one"
    assert device.state()["version"] == 1
    assert "nothing here is for this device (version 2: `check` failed" in device.pull()


def test_a_version_whose_check_failed_does_not_stand_in_the_way_of_those_before(publisher, device):
    publisher.index((3, b"three"))
    device.pull()
    publisher.index((5, b"five"), (4, b"four"), rollout=100)
    with pytest.raises(VitsdError, match="Version 3 is in use again"):
        device.pull(check="false")
    assert "version 4 is in use now" in device.pull(check="true")
    assert device.in_use() == b"four"


@pytest.mark.parametrize("left", ["", "1\n", None])
def test_who_waits_for_a_change_is_told_also_after_a_power_cut(publisher, device, left):
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, b"two"))
    device.pull()
    notice = device.folder / "version"
    notice.unlink() if left is None else notice.write_text(left)  # cut off behind the switch
    assert "up to date" in device.pull()
    assert notice.read_text() == "2\n"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"check": "no-such-program-here"}, "`check` is no program here: 'no-such-program-here'"),
        ({"check": "'"}, "`check` is no program"),
        ({"check": ""}, "`check` is no program"),
        ({"channel": ""}, "`channel`"),
        ({"channel": "a b"}, "`channel` is the name of none: 'a b'"),
        ({"device_id": ""}, "`device_id`"),
        ({"device_id": "\udcff"}, "`device_id`"),
        ({"device_id": "x" * 201}, "`device_id`"),
    ],
)
def test_what_can_not_work_is_misuse_and_no_fault_of_the_release(
    publisher, device, policy, message
):
    publisher.index((1, b"one"))
    with pytest.raises(UsageError, match=message):
        device.pull(**policy)
    assert device.in_use() is None
    assert message.split("`")[1] in device.state()["last_error"]
    device.pull()
    assert device.in_use() == b"one"


def test_a_check_that_can_not_be_started_fails(publisher, device, tmp_path):
    publisher.index((1, b"one"))
    (tmp_path / "check").write_text("#!/no/such/shell\n")
    (tmp_path / "check").chmod(0o755)
    with pytest.raises(VitsdError, match="`check` failed: No such file"):
        device.pull(check=str(tmp_path / "check"))
    assert device.in_use() is None


def test_what_a_check_prints_is_no_answer(publisher, device, capfd):
    publisher.index((1, b"one"))
    device.pull(check="echo well")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "well\n")


def test_a_version_that_was_never_confirmed_is_tried_again(publisher, device):
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, b"two"))
    device.pull()
    (device.folder / "versions/2/confirmed").unlink()  # a power cut after the switch
    with pytest.raises(VitsdError, match="Version 1 is in use again"):
        device.pull(check="false")
    assert device.in_use() == b"one"


def test_a_version_that_was_never_confirmed_is_given_up_if_it_does_not_work(publisher, device):
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, b"two bad"))
    device.pull(try_model=lambda path: None)
    assert device.in_use() == b"two bad"
    (device.folder / "versions/2/confirmed").unlink()
    with pytest.raises(VitsdError, match="Version 1 is in use again"):
        device.pull()
    assert device.in_use() == b"one"


def test_back_by_hand(publisher, device):
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, b"two"), (1, b"one"))
    device.pull()
    assert "Version 1 is in use again" in device.rollback()
    assert (device.folder / "version").read_text() == "1\n"
    assert device.in_use() == b"one"
    device.pull()
    assert device.in_use() == b"one"  # not at once forward again
    with pytest.raises(UsageError, match="no earlier version"):
        device.rollback()
    device.pull(retry=True)
    assert device.in_use() == b"two"


def test_no_downgrade_unless_asked(publisher, device):
    publisher.index((2, b"two"))
    device.pull()
    publisher.index((1, b"one"))
    assert "older than 2" in device.pull()
    assert device.in_use() == b"two"
    device.pull(allow_downgrade=True)
    assert device.in_use() == b"one"


def test_an_old_index_is_a_replay(publisher, device):
    publisher.index((1, b"one"))
    old = (publisher.folder / agent.INDEX).read_bytes()
    publisher.index((2, b"two"))
    device.pull()
    (publisher.folder / agent.INDEX).write_bytes(old)
    with pytest.raises(VitsdError, match="old one"):
        device.pull(allow_downgrade=True)
    assert device.in_use() == b"two"


def test_an_expired_index_is_refused(publisher, device):
    publisher.index((1, b"one"), expires=int(time.time()) - 86400)
    with pytest.raises(VitsdError, match=r"index expired 1.0 days ago"):
        device.pull()
    assert device.in_use() is None


def test_a_clock_that_begins_at_1970_is_told_and_does_not_stop_updates(
    publisher, device, monkeypatch, caplog
):
    publisher.index((1, b"one"))
    monkeypatch.setattr(time, "time", lambda: 100.0)
    device.pull()
    assert device.in_use() == b"one"
    assert "clock" in caplog.text


def test_what_others_sign_is_refused(publisher, device):
    stranger = os.urandom(32)
    publisher.index((1, b"one"), seed=stranger)
    with pytest.raises(VitsdError, match="No key that is trusted for it has signed"):
        device.pull()
    publisher.index(publisher.release(1, b"one", seed=stranger))
    with pytest.raises(VitsdError, match="has signed the release"):
        device.pull()
    assert device.in_use() is None


def test_another_channel_is_refused(publisher, device):
    publisher.index(publisher.release(1, b"dog", "dogs"), channel="dogs")
    with pytest.raises(VitsdError, match="that of dogs"):
        device.pull(channel="cats")
    publisher.index((1, b"one"))
    device.pull()
    publisher.index(publisher.release(2, b"dog", "dogs"), channel="dogs")
    for channel in (None, "dogs"):
        with pytest.raises(VitsdError, match="that of dogs"):
            device.pull(channel=channel)
    publisher.index(publisher.release(2, b"dog", "dogs"))
    with pytest.raises(VitsdError, match="offers a release of dogs"):
        device.pull()
    assert device.in_use() == b"one"


def test_other_content_under_a_version_that_is_in_use_is_refused(publisher, device):
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((1, b"another one"))
    with pytest.raises(VitsdError, match="sign it under a new one"):
        device.pull()


def test_what_is_damaged_here_comes_anew(publisher, device):
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, b"two"))
    device.pull()
    (device.folder / "current/model.tflite").write_bytes(b"tvo")
    device.pull()
    assert device.in_use() == b"two"
    device.rollback()
    assert device.in_use() == b"one"


def test_an_earlier_model_under_a_new_version_is_not_downloaded_again(publisher, device):
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, b"two"))
    device.pull()
    publisher.index((3, b"one"))
    shutil.rmtree(publisher.folder / agent.FILES)
    device.pull()
    assert device.in_use() == b"one"


def test_a_device_that_takes_no_part_keeps_the_version_before(publisher, device):
    publisher.index((2, b"two"), (1, b"one"), rollout=0)
    device.pull()
    assert device.in_use() == b"one"
    publisher.index((2, b"two"), (1, b"one"), rollout=100)
    device.pull()
    assert device.in_use() == b"two"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"engines": ("other_engine",)}, "needs one of other engines"),
        ({"format": "future"}, "needs one of"),
        ({"schema": 99}, "needs one of"),
        ({"runtime": "99.0"}, "needs vitsd-runtime 99.0"),
    ],
)
def test_what_can_not_run_here_is_not_downloaded(publisher, device, changes, reason):
    publisher.index(publisher.release(2, b"two", **changes), (1, b"one"))
    device.pull()
    assert device.in_use() == b"one"
    assert reason in device.pull()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 10**12},
        {"size": -1},
        {"size": 3.0},
        {"size": True},
        {"sha256": "../../etc/passwd"},
        {"sha256": "A" * 64},
        {"name": "../x"},
        {"name": "\x1b"},
        {"format": "../x"},
        {"engines": ()},
        {"engines": ("a b",)},
        {"schema": "2"},
        {"runtime": "1.0\n"},
    ],
)
def test_odd_values_are_refused_even_if_they_are_signed(publisher, device, changes):
    publisher.index(publisher.release(1, b"one", **changes))
    with pytest.raises(VitsdError, match="The signed release is unusable"):
        device.pull()


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 10**30},
        {"serial": 0},
        {"serial": None},
        {"expires": "tomorrow"},
        {"created": -5},
        {"offers": []},
        {"offers": {}},
        {"offers": [{}]},
        {"offers": [5]},
        {"offers": [{"release": {}, "rollout": 5}] * 100},
        {"channel": "a/b"},
    ],
)
def test_odd_indexes_are_refused_even_if_they_are_signed(publisher, device, changes):
    publisher.index((1, b"one"), **changes)
    with pytest.raises(VitsdError, match=r"unusable|no signed release"):
        device.pull()


@pytest.mark.parametrize("rollout", [-1, 101, "50", None, True, 10**400])
def test_odd_shares_are_refused(publisher, device, rollout):
    publisher.index((1, b"one"), rollout=rollout)
    with pytest.raises(VitsdError, match=r"unusable|can't be read"):
        device.pull()


def test_the_first_key_says_who_may_sign_and_takes_it_back(publisher, device):
    root, online, builder, thief = publisher.seed, *(os.urandom(32) for _ in range(3))
    keys = statement_of_keys(root, [builder], [online])
    publisher.index(publisher.release(1, b"one", seed=builder), seed=online, keys=keys)
    device.pull()
    # The key of the index can't sign releases, and once there is a statement, the first can't.
    publisher.index(publisher.release(2, b"evil", seed=online), seed=online, keys=keys)
    with pytest.raises(VitsdError, match="has signed the release"):
        device.pull()
    publisher.index(publisher.release(2, b"evil", seed=builder), seed=thief, keys=keys)
    with pytest.raises(VitsdError, match="has signed the index"):
        device.pull()
    # The builder's key was stolen: another statement takes it back.
    new = os.urandom(32)
    rotated = statement_of_keys(root, [new], [online], version=2)
    publisher.index(publisher.release(2, b"two", seed=new), seed=online, keys=rotated)
    device.pull()
    publisher.index(publisher.release(3, b"evil", seed=builder), seed=online, keys=keys)
    with pytest.raises(VitsdError, match="old one"):
        device.pull()
    publisher.index(publisher.release(3, b"evil"))  # as if there were no statement
    with pytest.raises(VitsdError, match="old one"):
        device.pull()
    assert device.in_use() == b"two"


def test_new_keys_undo_that_a_thief_counted_up_to_the_end(publisher, device):
    root, stolen, new = publisher.seed, os.urandom(32), os.urandom(32)
    one = publisher.release(1, b"one")
    first = statement_of_keys(root, [root], [stolen])
    publisher.index(one, seed=stolen, keys=first, serial=10**12)
    device.pull()
    publisher.index((2, b"two"), seed=new, keys=statement_of_keys(root, [root], [new], version=2))
    device.pull()
    assert device.in_use() == b"two"
    publisher.index(one, seed=stolen, keys=first, serial=10**12)
    with pytest.raises(VitsdError, match="old one"):
        device.pull()


def test_a_statement_of_keys_expires_and_is_signed_by_the_first_key(publisher, device):
    seed = os.urandom(32)
    for keys, message in (
        (statement_of_keys(publisher.seed, [seed], [seed], expires=5), "statement of keys expired"),
        (statement_of_keys(seed, [seed], [seed]), "No key .* has signed the keys"),
        ({"payload": 5}, "no signed keys"),
    ):
        publisher.index(publisher.release(1, b"one", seed=seed), seed=seed, keys=keys)
        with pytest.raises(VitsdError, match=message):
            device.pull()


def test_only_one_agent_at_a_time(publisher, device):
    publisher.index((1, b"one"))
    with Store(device.folder):
        with pytest.raises(VitsdError, match="Another vitsd-agent"):
            device.pull()
    device.pull()


@pytest.mark.parametrize("name", ["versions", "downloads", "state.json", "version"])
def test_links_in_the_folder_are_not_followed(publisher, device, tmp_path, name):
    publisher.index((1, b"one"))
    device.folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (device.folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        device.pull()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_links_in_the_place_of_downloads_are_not_followed(publisher, device, tmp_path):
    publisher.index((1, b"one"))
    sha256 = os.listdir(publisher.folder / agent.FILES)[0]
    (tmp_path / "precious").write_text("precious")
    (device.folder / "downloads").mkdir(parents=True)
    (device.folder / "downloads" / sha256).symlink_to(tmp_path / "precious")
    device.pull()
    assert (tmp_path / "precious").read_text() == "precious"
    assert device.in_use() == b"one"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_something_else_in_the_place_of_a_download_is_removed(publisher, device, make):
    publisher.index((1, b"one"))
    (device.folder / "downloads").mkdir(parents=True)
    make(device.folder / "downloads" / os.listdir(publisher.folder / agent.FILES)[0])
    device.pull()
    assert device.in_use() == b"one"


@pytest.mark.parametrize("name", ["versions", "downloads", "state.json", "version"])
def test_something_else_in_the_place_of_what_an_agent_keeps_is_refused(publisher, device, name):
    publisher.index((1, b"one"))
    device.folder.mkdir()
    os.mkfifo(device.folder / name)
    for use in (device.pull, Store(device.folder).look):
        with pytest.raises(UsageError, match=f"{name} is not an agent's"):
            use()


@pytest.mark.parametrize("name", ["installed.json", "model"])
def test_pipes_in_the_place_of_a_version_keep_nobody_waiting(publisher, device, name):
    publisher.index((1, b"one"))
    device.pull()
    (path,) = (device.folder / "versions" / "1").glob(f"{name}*")
    path.unlink()
    os.mkfifo(path)
    Store(device.folder).look()
    device.pull()
    assert device.in_use() == b"one"


@pytest.mark.parametrize("version", ["{}.0", "{}.0.0", "0", "0.0"])
def test_versions_of_the_runtime_are_compared_as_numbers(publisher, device, version, monkeypatch):
    monkeypatch.setattr("vitsd_runtime.__version__", "1.2")
    publisher.index(publisher.release(1, b"one", runtime=version.format("1.2")))
    device.pull()
    assert device.in_use() == b"one"


@pytest.mark.parametrize(
    "values",
    [
        {"name": 5},
        {"name": "../../../precious"},
        {"size": "3"},
        {"sha256": None},
        {"previous": "../1"},
    ],
)
def test_what_is_written_of_a_version_is_checked(publisher, device, values):
    publisher.index((1, b"one"))
    device.pull()
    path = device.folder / "versions/1/installed.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    assert Store(device.folder).current() is None
    device.pull()  # as if it were not there
    assert device.in_use() == b"one"


def test_a_folder_that_everybody_can_write_to_is_refused(publisher, device):
    publisher.index((1, b"one"))
    device.folder.mkdir()
    device.folder.chmod(0o777)
    with pytest.raises(UsageError, match="Everybody can write"):
        device.pull()
    assert os.listdir(device.folder) == []


@pytest.mark.parametrize("name", ["versions", "downloads"])
def test_folders_inside_that_everybody_can_write_to_are_refused(publisher, device, name):
    publisher.index((1, b"one"))
    device.pull()
    (device.folder / name).chmod(0o777)
    with pytest.raises(UsageError, match=f"Everybody can write into .*{name}"):
        device.pull()


def test_a_folder_of_something_else_is_refused(publisher, device):
    publisher.index((1, b"one"))
    (device.folder / "current").mkdir(parents=True)
    with pytest.raises(UsageError, match="not an agent's link"):
        device.pull()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 300, b"[]", b'{"serial": "x", "refused": 7}', rb'{"device": "\ud800"}']
)
def test_a_lost_state_stops_nothing(publisher, device, content):
    publisher.index((2, b"two"))
    device.pull()
    (device.folder / "state.json").write_bytes(content)
    publisher.index((1, b"one"))
    assert "older than 2" in device.pull()
    publisher.index((3, b"three"))
    device.pull()
    assert device.in_use() == b"three"
    assert device.state()["channel"] == "cats"


def test_too_little_room_is_said_before_the_download(publisher, device, monkeypatch):
    publisher.index((1, b"one"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(VitsdError, match="has 1,000 bytes left; the new model needs 3"):
        device.pull()


def test_the_state_is_what_the_report_says(publisher, device):
    publisher.index((1, b"one"))
    device.pull()
    with Store(device.folder) as store:
        assert store.report() == json.loads((device.folder / "state.json").read_text())
