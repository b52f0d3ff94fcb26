"""Models found by name; the Hub's real client talks to a stand-in for the Hub on this machine."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from vitsd.evaluation.predict import predict_logits
from vitsd.hub.pretrained import from_pretrained
from vitsd_runtime import UsageError, VitsdError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(BaseHTTPRequestHandler):
    """The few answers of the Hub that downloading and uploading a small file need."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._file(send=False)

    def do_GET(self):
        self._file(send=True)

    def _file(self, send):
        self.server.requests.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path)
        if content is None:
            self._answer(
                404,
                b"",
                {
                    "X-Error-Code": "RevisionNotFound"
                    if "/me/digits/" in self.path
                    else "RepoNotFound"
                },
            )
            return
        etag = hashlib.sha256(content).hexdigest()
        self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, send)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.uploaded[line["value"]["path"]] = base64.b64decode(
                        line["value"]["content"]
                    )
            self._json(
                {
                    "success": True,
                    "commitOid": COMMIT,
                    "commitUrl": f"http://{self.headers['Host']}/me/digits/commit/{COMMIT}",
                }
            )
        elif self.path == "/api/repos/create":
            self._json({"url": f"http://{self.headers['Host']}/me/{json.loads(body)['name']}"})
        else:
            self._json({"warnings": [], "errors": []})

    def _json(self, value):
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, code, content, headers, send=True):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tmp_path):
    """A stand-in, and a function that runs Python code whose client takes it for the Hub."""
    pytest.importorskip("huggingface_hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.requests, server.files, server.uploaded = [], {}, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(code, **more):
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_of_nobody",
            **more,
        }
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )

    yield server, run
    server.shutdown()
    server.server_close()


LOAD = "from vitsd.hub.pretrained import locate; print(locate({!r}))"


def test_local_files_and_run_folders(trained, digits):
    for name in (trained, str(trained), trained / "model.keras"):
        model, spec = from_pretrained(name)
        assert spec.class_names == tuple("0123456789")
    assert (predict_logits(model, digits.images).argmax(axis=1) == digits.labels).mean() > 0.8


def test_a_repository_is_downloaded_once_and_then_found_offline(hub, trained):
    server, run = hub
    content = (trained / "model.keras").read_bytes()
    server.files = {"/me/digits/resolve/main/model.keras": content}
    done = run(LOAD.format("me/digits"))
    assert done.returncode == 0, done.stderr
    path = done.stdout.strip()
    assert Path(path).read_bytes() == content
    gets = f"GET {next(iter(server.files))}"
    assert run(LOAD.format("me/digits")).stdout.strip() == path
    assert server.requests.count(gets) == 1
    offline = run(LOAD.format("me/digits"), HF_HUB_OFFLINE="1")
    assert offline.stdout.strip() == path
    _, spec = from_pretrained(path)
    assert spec.num_classes == 10


def test_a_revision_is_asked_for(hub, trained):
    server, run = hub
    server.files = {"/me/digits/resolve/v1.0/model.keras": (trained / "model.keras").read_bytes()}
    assert run(LOAD.format("me/digits@v1.0")).returncode == 0
    missing = run(LOAD.format("me/digits"))
    assert "UsageError" in missing.stderr
    assert "no model.keras in me/digits" in missing.stderr


def test_what_the_hub_has_not_and_what_is_not_cached(hub):
    _, run = hub
    missing = run(LOAD.format("nobody/nothing")).stderr
    assert "UsageError: There is no file or folder nobody/nothing here" in missing
    assert "has no model.keras in nobody/nothing" in missing
    offline = run(LOAD.format("nobody/nothing"), HF_HUB_OFFLINE="1")
    assert "VitsdError: There is no file or folder nobody/nothing here" in offline.stderr
    assert "not in the local cache" in offline.stderr


def test_a_model_is_pushed_with_its_card(hub, trained, tmp_path):
    server, run = hub
    (tmp_path / "card.md").write_text(
        "---\nlicense: apache-2.0\n---\n# Digits\n![Curves](curves.png) [no](missing.png) "
        "[no](../out.md) [no](https://a.b/c)"
    )
    (tmp_path / "curves.png").write_bytes((trained / "curves.png").read_bytes())
    (tmp_path / "private.txt").write_text("nobody links to this")
    arguments = f"{str(trained)!r}, 'me/digits', {str(tmp_path / 'card.md')!r}"
    done = run(f"from vitsd.hub.pretrained import push_to_hub; print(push_to_hub({arguments}))")
    assert done.returncode == 0, done.stderr
    assert COMMIT in done.stdout
    assert server.uploaded["model.keras"] == (trained / "model.keras").read_bytes()
    assert b"# Digits" in server.uploaded["README.md"]
    assert server.uploaded["curves.png"] == (trained / "curves.png").read_bytes()
    assert len(server.uploaded) == 3


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "me/digits@", "/no/such/place"])
def test_names_of_nothing_are_refused(name):
    with pytest.raises(UsageError, match="No model is found"):
        from_pretrained(name)


def test_folders_without_a_model_and_damaged_files(tmp_path, trained):
    with pytest.raises(UsageError, match=r"holds no model\.keras"):
        from_pretrained(tmp_path)
    content = (trained / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(VitsdError, match="cut off"):
        from_pretrained(tmp_path)


def test_without_the_client_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"vitsd\[hub\]"):
        from_pretrained("me/digits")


def test_logits_survive_the_way_through_the_hub(hub, trained, digits):
    server, run = hub
    server.files = {"/me/digits/resolve/main/model.keras": (trained / "model.keras").read_bytes()}
    path = run(LOAD.format("me/digits")).stdout.strip()
    expected = predict_logits(from_pretrained(trained)[0], digits.images[:5])
    np.testing.assert_array_equal(
        predict_logits(from_pretrained(path)[0], digits.images[:5]), expected
    )
