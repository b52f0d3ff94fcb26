"""The same calls to vitsd-serve and to another server, with the same exported file."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.cluster
DEADLINE = 120
"""Seconds that a server takes at most to be ready."""


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


@contextlib.contextmanager
def client_of(port, command, **options):
    """A client of a server that is ready."""
    triton = pytest.importorskip("tritonclient.http")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    try:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        end = time.monotonic() + DEADLINE
        while True:
            assert process.poll() is None
            assert time.monotonic() < end
            with contextlib.suppress(OSError, triton.InferenceServerException):
                if client.is_model_ready("digits"):
                    break
            time.sleep(0.1)
        yield client
    finally:
        process.kill()
        process.wait()


def ask(client, images):
    triton = pytest.importorskip("tritonclient.http")
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images, binary_data=False)
    wanted = triton.InferRequestedOutput("logits", binary_data=False)
    return client.infer("digits", [given], outputs=[wanted]).as_numpy("logits")


def test_mlserver_and_vitsd_serve_answer_the_same_calls_alike(
    servers, repositories, digits, tmp_path
):
    model = repositories / "triton/digits/1/model.onnx"
    shutil.copyfile(Path(__file__).with_name("mlserver_onnx.py"), tmp_path / "mlserver_onnx.py")
    settings = {
        "name": "digits",
        "implementation": "mlserver_onnx.OnnxModel",
        "parameters": {"uri": str(model)},
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    ours, http, grpc, metrics = free_ports(4)
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    process = {"host": "127.0.0.1", "parallel_workers": 0, **ports}
    (tmp_path / "settings.json").write_text(json.dumps(process))
    serve = [sys.executable, "-m", "vitsd_runtime.cli.serve", f"digits={model}", "--port", ours]
    theirs = [servers.binaries / "mlserver", "start", tmp_path]
    images = digits.images[:32]
    with (
        client_of(ours, list(map(str, serve))) as our_client,
        client_of(http, theirs, env=servers.environment, cwd=tmp_path) as their_client,
    ):
        expected = ask(their_client, images)
        found = ask(our_client, images)
    assert expected.shape == found.shape == (32, 10)
    np.testing.assert_allclose(found, expected, atol=1e-5)
