"""A publisher with keys, a folder for a host, and hosts that misbehave."""

import contextlib
import hashlib
import http.server
import json
import os
import threading
import time
from types import SimpleNamespace

import pytest

from vitsd_runtime.engines.load import installed_package
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.release import agent, envelope
from vitsd_runtime.release.download import Host
from vitsd_runtime.release.keys import public_of
from vitsd_runtime.release.statements import Release, ReleasedFile, to_dict
from vitsd_runtime.release.store import Store


class Publisher:
    """Signs any bytes as models, for tests in which nothing runs them."""

    def __init__(self, folder):
        self.folder, self.serial = folder, 0
        self.seed = os.urandom(32)
        self.key = public_of(self.seed)
        self.created = int(time.time())

    def release(self, version, content, channel="cats", seed=None, **changes):
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / agent.FILES).mkdir(parents=True, exist_ok=True)
        (self.folder / agent.FILES / sha256).write_bytes(content)
        format = "tflite" if installed_package("tflite") else "onnx"
        engine = installed_package(format) or pytest.skip("no engine is installed")
        file = {
            "name": f"model.{format}",
            "size": len(content),
            "sha256": sha256,
            "format": format,
            "engines": (engine,),
            "schema": 2,
        }
        file.update(changes)
        runtime = file.pop("runtime", "0")
        release = Release(channel, version, self.created, (ReleasedFile(**file),), runtime)
        return envelope.seal("release", to_dict(release), seed or self.seed)

    def index(self, *releases, seed=None, keys=None, rollout=100, **changes):
        """Write an index; releases are (version, content), or sealed ones."""
        self.serial += 1
        sealed = [r if isinstance(r, dict) else self.release(*r) for r in releases]
        content = {
            "channel": "cats",
            "serial": self.serial,
            "created": self.created,
            "expires": self.created + 1000,
            "offers": [
                {"release": each, "rollout": 100 if i else rollout} for i, each in enumerate(sealed)
            ],
        }
        content.update(changes)
        index = envelope.seal("index", content, seed or self.seed)
        if keys:
            index["keys"] = keys
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / agent.INDEX).write_text(json.dumps(index))


@pytest.fixture
def publisher(tmp_path):
    pytest.importorskip("nacl")
    return Publisher(tmp_path / "host")


@pytest.fixture
def device(tmp_path, publisher):
    """A device that follows the publisher; models that hold ``bad`` do not work there."""
    folder = tmp_path / "device"

    def try_model(path):
        if b"bad" in path.read_bytes():
            raise VitsdError("logits: off by 99")

    def pull(url=None, timeout=20, keys=None, **policy):
        policy = {"try_model": try_model, **policy}
        with Store(folder) as store:
            host = Host(url or publisher.folder.as_uri(), timeout)
            return agent.pull(host, store, agent.Policy(keys or [publisher.key], **policy))

    def in_use():
        current = Store(folder).current()
        return current and current.path.read_bytes()

    def state():
        return json.loads((folder / "state.json").read_text())

    def rollback():
        with Store(folder) as store:
            return agent.rollback(store)

    return SimpleNamespace(folder=folder, pull=pull, in_use=in_use, state=state, rollback=rollback)


@pytest.fixture
def serve():
    """A function that starts an HTTP server in which a function answers each request."""
    servers = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with contextlib.suppress(ConnectionError):
                    answer(self)
                self.close_connection = True

            def do_POST(self):
                self.do_GET()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
