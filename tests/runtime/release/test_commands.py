"""vitsd-release and vitsd-agent, from a key to a model in use, with the bundled model."""

import hashlib
import json
import shutil
import subprocess
import sys
import time

import pytest

from vitsd_runtime import Classifier, bundled_model
from vitsd_runtime.formats import read_spec, write_spec
from vitsd_runtime.system.files import atomic_write, locked


@pytest.fixture
def host(tmp_path, command_here):
    """A folder with keys, two versions of a model, signed, and a host that offers the first."""
    pytest.importorskip("nacl")
    pytest.importorskip("ai_edge_litert")
    shutil.copyfile(bundled_model(), tmp_path / "one.tflite")
    with atomic_write(tmp_path / "two.tflite") as temporary:
        shutil.copyfile(bundled_model(), temporary)
        write_spec(temporary, read_spec(temporary).replace(name="two"))
    assert command_here("vitsd-release", "keygen", tmp_path / "key").returncode == 0
    for number, name in enumerate(("one", "two"), 1):
        model = tmp_path / f"{name}.tflite"
        options = ["--channel", "cats", "--release-version", number]
        done = command_here("vitsd-release", "sign", model, "--key", tmp_path / "key", *options)
        assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.fixture
def offer(host, command_here):
    def run(*words):
        return command_here("vitsd-release", "index", host / "host", *words, "--key", host / "key")

    return run


@pytest.fixture
def agent(host, command_here):
    def run(action, *words):
        if action == "pull":
            words = [(host / "host").as_uri(), "--key", host / "key.pub", *words]
        return command_here("vitsd-agent", action, *words, "--dir", host / "device")

    return run


@pytest.mark.slow
def test_from_a_key_to_a_model_in_use_and_back(host, offer, agent, command_here):
    first, second = (host / f"cats-{number}.release.json" for number in (1, 2))
    assert offer(first).returncode == 0
    done = command_here("vitsd-release", "verify", host / "host", "--trusted", host / "key.pub")
    assert "cats version 1: one.tflite" in done.stdout
    assert agent("pull").returncode == 0
    assert offer(second, first, "--rollout", 0).returncode == 0
    assert "version 1 is up to date" in agent("pull").stdout
    assert "to 0 %: cats version 2" in offer().stdout  # to sign it anew changes nothing else
    assert "to 100 %: cats version 2" in offer("--rollout", 100).stdout
    done = agent("pull", "--json")
    assert json.loads(done.stdout)["version"] == 2
    model = host / "device" / "current" / "model.tflite"
    assert Classifier.load(model).spec.name == "two"
    assert "Version 1 is in use again" in agent("rollback").stdout
    assert read_spec(model).name == read_spec(bundled_model()).name
    status = json.loads(agent("status", "--json").stdout)
    assert (status["version"], status["refused"]) == (1, {"2": "rolled back by hand"})
    assert "rolled back by hand" in agent("status").stdout


@pytest.mark.slow
def test_a_model_that_answers_otherwise_is_given_up(host, offer, agent, command_here):
    spec = read_spec(host / "two.tflite")
    wrong = spec.replace(mean=tuple(value + 60 for value in spec.mean))
    write_spec(host / "two.tflite", wrong)
    second = host / "cats-2.release.json"
    options = ["--channel", "cats", "--release-version", 2, "--output", second]
    command_here("vitsd-release", "sign", host / "two.tflite", "--key", host / "key", *options)
    assert offer(second).returncode == 0
    done = agent("pull")
    assert done.returncode == 1
    assert "Version 2 is given up: it does not work here: tensor: off by" in done.stderr
    assert json.loads(agent("status", "--json").stdout)["version"] is None


def test_a_release_with_another_file_is_noticed(host, offer, command_here):
    release = host / "cats-1.release.json"
    (host / "one.tflite").write_bytes(b"other")
    for done in (
        offer(release),
        command_here("vitsd-release", "verify", release, "--trusted", host / "key.pub"),
    ):
        assert done.returncode == 1
        assert "is not the file that was signed" in done.stderr
    assert not (host / "host" / "index.json").exists()


def test_nothing_is_published_that_devices_would_refuse(host, offer, command_here):
    command_here("vitsd-release", "keygen", host / "other")
    done = offer(host / "cats-1.release.json", "--trusted", host / "other.pub")
    assert done.returncode == 1
    assert "No key that is trusted for it has signed" in done.stderr
    assert not (host / "host").exists()


def test_what_is_no_statement_is_not_overwritten(host, command_here):
    words = ["--key", host / "key", "--output"]
    model, key = host / "one.tflite", host / "key"
    version = ["--channel", "c", "--release-version", 1]
    before = model.read_bytes(), key.read_bytes()
    done = command_here("vitsd-release", "sign", model, *version, *words, model)
    assert (done.returncode, "choose another --output" in done.stderr) == (2, True)
    keys = ["--release-key", host / "key.pub", "--index-key", host / "key.pub"]
    keys += ["--keys-version", 1]
    done = command_here("vitsd-release", "delegate", *keys, *words, key)
    assert (done.returncode, "choose another --output" in done.stderr) == (2, True)
    assert (model.read_bytes(), key.read_bytes()) == before
    for _ in range(2):  # but a statement is
        done = command_here("vitsd-release", "delegate", *keys, *words, host / "keys.json")
        assert done.returncode == 0


def test_an_index_that_devices_would_refuse_after_the_last_is_misuse(host, offer, command_here):
    release = host / "cats-1.release.json"
    assert offer(release, "--serial", 5).returncode == 0
    before = (host / "host" / "index.json").read_text()
    for serial in (4, 5):
        done = offer("--serial", serial)
        assert (done.returncode, "have seen --serial 5" in done.stderr) == (2, True), done.stderr
    words = [host / "two.tflite", "--channel", "cats", "--release-version", 1]
    command_here("vitsd-release", "sign", *words, "--key", host / "key", "--output", release)
    done = offer(release)
    assert (done.returncode, "published already, with other files" in done.stderr) == (2, True)
    assert (host / "host" / "index.json").read_text() == before
    command_here("vitsd-release", "sign", host / "one.tflite", *words, "--key", host / "key")
    assert offer(release).returncode == 0  # one more file is no other content


def test_two_publishers_at_once_do_not_give_one_number_twice(host, offer):
    assert offer(host / "cats-1.release.json").returncode == 0
    with locked(host / "host"):
        done = offer()
    assert (done.returncode, "Another vitsd-release is at work" in done.stderr) == (1, True)
    assert "serial 2" in offer().stdout


def test_files_that_the_last_two_indexes_do_not_offer_are_removed_if_asked_for(host, offer):
    first, second = (host / f"cats-{number}.release.json" for number in (1, 2))
    files = host / "host" / "files"
    offer(first)
    (files / "notes.txt").write_text("the publisher's own")
    assert offer(second, "--prune").returncode == 0
    assert len(list(files.iterdir())) == 3  # a device may have the index before
    offer("--prune")
    left = {path.name for path in files.iterdir()}
    assert left == {hashlib.sha256((host / "two.tflite").read_bytes()).hexdigest(), "notes.txt"}


@pytest.mark.parametrize("content", ["[]", "{}", "null", "0", "x"])
def test_something_else_in_the_place_of_an_index_stays(host, offer, content):
    (host / "host").mkdir()
    (host / "host" / "index.json").write_text(content)
    done = offer(host / "cats-1.release.json")
    assert done.returncode in (1, 2)
    assert "index" in done.stderr
    assert "nobody foresaw" not in done.stderr
    assert (host / "host" / "index.json").read_text() == content


def test_keys_that_the_first_key_names_sign(host, command_here):
    for name in ("builder", "online"):
        command_here("vitsd-release", "keygen", host / name)
    statement = host / "keys.json"
    words = ["--keys-version", 1, "--key", host / "key", "--output", statement]
    words += ["--release-key", host / "builder.pub", "--index-key", host / "online.pub"]
    assert command_here("vitsd-release", "delegate", *words).returncode == 0
    release = host / "new.release.json"
    words = [host / "two.tflite", "--channel", "cats", "--release-version", 3, "--output", release]
    assert command_here("vitsd-release", "sign", *words, "--key", host / "builder").returncode == 0
    for path in ([release, "--keys", statement], []):  # the second time, all of it is there
        words = [host / "host", *path, "--key", host / "online", "--trusted", host / "key.pub"]
        done = command_here("vitsd-release", "index", *words)
        assert done.returncode == 0, done.stderr
    done = command_here("vitsd-release", "verify", host / "host", "--trusted", host / "key.pub")
    assert "serial 2" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vitsd-agent"], "the following arguments are required: action"),
        (["vitsd-agent", "push"], "invalid choice: 'push'"),
        (["vitsd-agent", "--", "pull"], "Begin with the action"),
        (["vitsd-agent", "pull", "--dir", "d", "--key", "k"], "required: URL"),
        (["vitsd-agent", "pull", "x", "--dir", "d", "--key", "k"], "x is no URL of http, https"),
        (["vitsd-agent", "pull", "http://h", "--dir", "d", "--key", "k"], "key k can't be read"),
        (["vitsd-agent", "pull", "http://h", "--dir", "d", "--key", "a\x1b"], r"key a\x1b can't"),
        (["vitsd-agent", "status", "--dir", "d"], "d is no folder of an agent"),
        (["vitsd-agent", "rollback", "--dir", "d"], "d is no folder of an agent"),
        (["vitsd-agent", "pull", "http://h", "--timeout", "nan"], "must be a number"),
        (["vitsd-release", "sign", "m", "--release-version", "1.5"], "must be a whole number"),
        (["vitsd-release", "index", "d", "--rollout", "101"], "from 0 to 100"),
        (["vitsd-release", "verify", "r", "--trusted", "k"], "key k can't be read"),
        (["vitsd-release", "index", "d", "--key", "k"], "holds no index yet|can't be read"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(command_here, tmp_path, words, message):
    done = command_here(*words, cwd=tmp_path)
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert any(part in said for part in message.split("|"))
    assert not list(tmp_path.iterdir())


def test_what_can_not_be_released_is_misuse(host, command_here, trained_without_golden):
    words = ["--key", host / "key", "--channel", "cats", "--release-version", 5]
    for model, message in (
        (host / "none.tflite", "no model at"),
        (host / "key", "is not a model"),
        (trained_without_golden, "no golden images"),
    ):
        done = command_here("vitsd-release", "sign", model, *words)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    shutil.copyfile(host / "one.tflite", host / "my model.tflite")
    for model, option, message in (
        ("my model.tflite", ["--channel", "cats"], "my model.tflite must be renamed"),
        ("one.tflite", ["--channel", "a/b"], "--channel must be"),
        ("one.tflite", ["--needs-runtime", "new"], "--needs-runtime must be numbers"),
    ):
        done = command_here("vitsd-release", "sign", host / model, *words, *option)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.fixture
def trained_without_golden(tmp_path):
    path = tmp_path / "old.tflite"
    shutil.copyfile(bundled_model(), path)
    write_spec(path, read_spec(path).replace(golden=None))
    return path


def test_the_report_is_sent_also_after_a_failure(host, agent, serve):
    received = []

    def answer(request):
        received.append(json.loads(request.rfile.read(int(request.headers["Content-Length"]))))
        request.send_response(200)
        request.end_headers()

    done = agent("pull", "--report", serve(answer))  # there is no index yet
    assert done.returncode == 1
    assert "index.json" in received[0]["last_error"]
    done = agent("pull", "--report", "http://127.0.0.1:9")
    assert "The report was not sent" in done.stderr


@pytest.mark.slow
def test_a_server_takes_the_new_version_over(host, offer, agent):
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    offer(host / "cats-1.release.json")
    agent("pull")
    command = [sys.executable, "-m", "vitsd_runtime.cli.serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, f"cats={host / 'device/current/model.tflite'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        url = next(line for line in process.stdout if "http://" in line).split("http://")[1]
        url = "http://" + url.split()[0].rstrip(".,/")
        assert 'outcome="loaded"} 1.0' not in httpx.get(f"{url}/metrics").text
        offer(host / "cats-2.release.json")
        assert agent("pull").returncode == 0
        end = time.monotonic() + 60
        while 'outcome="loaded"} 1.0' not in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(60)
