"""vitsd-serve as users start it: under load, with slow and broken clients, until its end."""

import asyncio
import contextlib
import importlib.util
import io
import json
import os
import resource
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime import Classifier, bundled_model

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))
try:
    from tools.serving.load import ask_all, post, repeat
    from tools.serving.process import ServerProcess
finally:
    sys.path.remove(str(ROOT))

pytestmark = pytest.mark.slow
if not any(map(importlib.util.find_spec, ("ai_edge_litert", "tflite_runtime"))):
    pytest.skip("needs an engine for the bundled model", allow_module_level=True)


@pytest.fixture(scope="module")
def images():
    """Twenty small pictures: PNGs that differ."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    pixels = pixels.repeat(8, 1).repeat(8, 2)
    files = []
    for image in pixels:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        files.append(out.getvalue())
    return files


@pytest.fixture(scope="module")
def expected(images):
    """The direct call's answers."""
    answers = Classifier.load(num_threads=1).predict(images)
    return [[(p.label, p.probability) for p in answer] for answer in answers]


@pytest.fixture(scope="module")
def server():
    with ServerProcess("--timeout", 1, "--max-connections", 1200, "--max-body", 2) as process:
        yield process


def ask(server, requests, connections=1, rate=None):
    return asyncio.run(ask_all((server.host, server.port), requests, connections, rate))


def found(reply):
    (result,) = json.loads(reply.body)["results"]
    return [(p["label"], p["probability"]) for p in result["predictions"]]


def connect(server):
    connection = socket.create_connection((server.host, server.port))
    connection.settimeout(20)
    return connection


def read_all(connection):
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def read_some(connection):
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(65536)


def is_held(server, connection):
    """Whether the server still holds its end of a connection.

    One that takes no answers does not hear of its end, and the number of files that the server has
    open changes with other connections too.
    """
    ports = f":{server.port:04X}", f":{connection.getsockname()[1]:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ends = [line.split()[1:4] for line in lines]
    return any(
        local.endswith(ports[0]) and remote.endswith(ports[1]) and state == "01"  # established
        for local, remote, state in ends
    )


def metrics(server):
    return ask(server, [b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"])[0].body


def still_answers(server, images, expected):
    (reply,) = ask(server, [post("/v1/predict", images[0])])
    assert found(reply) == expected[0]


def test_a_thousand_requests_at_once_are_answered_or_refused(images, expected):
    requests = list(repeat([post("/v1/predict", image) for image in images], 2000))
    with ServerProcess("--max-connections", 1200) as server:
        replies = ask(server, requests, connections=1000)
        still_answers(server, images, expected)
    assert sorted(reply.request for reply in replies) == list(range(2000))
    assert {reply.status for reply in replies} == {200, 503}
    for reply in replies:
        if reply.status == 200:
            assert found(reply) == expected[reply.request % len(images)]
        else:
            assert b"retry-after: 1" in reply.head
    assert sum(reply.status == 200 for reply in replies) >= 64


SLOW = {
    "nothing": (b"", b"408"),
    "half a line": (b"POST /v1/pre", b"408"),
    "half a head": (b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nX-A: ", b"408"),
    "no body": (b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n", b"408"),
    "half a body": (b"POST /v1/predict HTTP/1.1\r\nContent-Length: 99\r\n\r\nabc", b"408"),
    "half a chunk": (
        b"POST /v1/predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"408",
    ),
    "half a form": (
        b"POST /v1/predict HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: 99\r\n\r\n--x\r\n",
        b"408",
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_client_that_stops_is_cut_off(server, name):
    sent, status = SLOW[name]
    with connect(server) as connection:
        connection.sendall(sent)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"took too long" in answer
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    ("start", "drip"),
    [
        (b"", b"\r\n"),
        (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
        (b"POST /v1/predict HTTP/1.1\r\nContent-Length: 9999\r\n\r\n", b"a"),
    ],
)
def test_a_client_that_sends_a_little_now_and_then_is_cut_off(server, start, drip):
    with connect(server) as connection:
        connection.sendall(start)
        end = time.monotonic() + 20
        with pytest.raises(ConnectionError):
            while time.monotonic() < end:
                connection.sendall(drip)
                time.sleep(0.1)


def test_a_client_that_takes_no_answers_is_cut_off(server, images, expected):
    parts = b"".join(
        b"--x\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\n" + image + b"\r\n"
        for image in (images * 2)[:32]
    )
    form = {"Content_Type": "multipart/form-data; boundary=x"}
    request = post("/v1/predict?top_k=100", parts + b"--x--\r\n", **form)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((server.host, server.port))
        connection.settimeout(20)
        assert is_held(server, connection)
        with contextlib.suppress(ConnectionError):  # cut off already
            for _ in range(30):  # answers of 200 kB, more than the buffers between hold
                connection.sendall(request)
        end = time.monotonic() + 20
        while is_held(server, connection) and time.monotonic() < end:
            time.sleep(0.1)
        assert not is_held(server, connection)
    still_answers(server, images, expected)


def test_a_client_that_sends_far_ahead_is_cut_off(server, images, expected):
    before = server.memory_mb()
    with connect(server) as connection, pytest.raises(ConnectionError):
        for _ in range(100_000):
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
    assert server.memory_mb() < before + 50
    still_answers(server, images, expected)


def test_slow_clients_keep_nobody_from_an_answer(server, images, expected):
    slow = [connect(server) for _ in range(500)]
    for connection in slow:
        connection.sendall(SLOW["half a body"][0])
    still_answers(server, images, expected)
    assert all(read_all(connection).startswith(b"HTTP/1.1 408") for connection in slow)


def test_a_head_without_end_is_refused(server):
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 10_000)
        assert read_all(connection).startswith(b"HTTP/1.1 431")
    with connect(server) as connection:
        connection.sendall(b"GET /" + b"a" * 100_000)
        assert read_all(connection).startswith(b"HTTP/1.1 431")
    assert b'vitsd_cut_off_total{status="431"} 2.0' in metrics(server)


def test_requests_may_follow_each_other_closely(server, images):
    large = post("/v1/predict", images[0] + bytes(200_000))
    with connect(server) as connection:
        connection.sendall(large * 5 + large[:20])
        time.sleep(0.3)
        connection.sendall(large[20:])
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == 6


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 1000,
    ],
)
def test_what_is_no_http_is_refused_in_json(server, images, expected, sent):
    with connect(server) as connection:
        connection.sendall(sent)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]
    still_answers(server, images, expected)


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_an_offer_of_another_protocol_is_not_heard(server, images, expected, protocol):
    offer = f"Connection: Upgrade\r\nupgrade: {protocol}\r\n\r\n".encode()
    request = post("/v1/predict", images[0]).replace(b"\r\n\r\n", b"\r\n" + offer, 1)
    with connect(server) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        _, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert json.loads(body)["results"][0]["predictions"][0]["label"] == expected[0][0][0]


def test_a_body_is_never_taken_for_requests(server, images, expected):
    body = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nContent-Length: %d\r\nConnection: Upgrade\r\nUpgr"
    with connect(server) as connection:
        with contextlib.suppress(OSError):  # it is cut off in the midst
            for part in (head % len(body), b"ade: h2c\r\n\r\n", body):
                connection.sendall(part)
                time.sleep(0.1)
        assert read_all(connection).count(b"HTTP/1.1 ") == 1
    still_answers(server, images, expected)


def test_uploads_that_wait_are_bounded_together(server, images, expected):
    most = post("/v1/predict", images[0] + bytes((2 << 20) - len(images[0])))
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(10)]
        for connection in connections:
            connection.sendall(most[:-1])
        time.sleep(0.3)
        heads = []
        for connection in connections:
            with contextlib.suppress(OSError):  # refused, and closed
                connection.sendall(most[-1:])
            heads.append(read_some(connection))
    refused = [head for head in heads if head.startswith(b"HTTP/1.1 503")]
    assert 2 <= len(refused) < 10
    assert all(b"retry-after: 1" in head for head in refused)
    assert len([head for head in heads if head.startswith(b"HTTP/1.1 200")]) == 10 - len(refused)
    still_answers(server, images, expected)


def test_an_upload_that_is_cut_off_leaves_nothing(server, images, expected):
    whole = post("/v1/predict", images[0] + bytes(1 << 20))
    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(whole[: len(whole) // 2])
    still_answers(server, images, expected)


def test_a_client_may_close_its_side_when_it_has_sent_all(server, images, expected):
    with connect(server) as connection:
        connection.sendall(post("/v1/predict", images[0]))
        connection.shutdown(socket.SHUT_WR)
        _, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert json.loads(body)["results"][0]["predictions"][0]["label"] == expected[0][0][0]


def test_a_body_that_is_too_large_is_refused_while_it_comes(server, images, expected):
    head = b"POST /v1/predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(head)
        for _ in range(3 * 16):
            connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    (reply,) = ask(server, [post("/v1/predict", bytes(3 << 20))])
    assert reply.status == 413
    still_answers(server, images, expected)


def test_connections_above_the_limit_are_refused(images, expected):
    with ServerProcess("--max-connections", 5) as server:
        open_ones = [connect(server) for _ in range(5)]
        (reply,) = ask(server, [post("/v1/predict", images[0])])
        assert reply.status == 503
        assert b"retry-after" in reply.head
        for connection in open_ones:
            connection.close()
        time.sleep(0.2)
        still_answers(server, images, expected)
        assert b'vitsd_cut_off_total{status="503"} 1.0' in metrics(server)


def test_uploads_never_touch_the_disk(images, expected, tmp_path):
    def no_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    environment = {name: str(folder) for name in ("TMPDIR", "TMP", "TEMP", "HOME")}
    with ServerProcess(environment=environment, before=no_files) as server:
        boundary = b"--x\r\nContent-Disposition: form-data; name=a; filename=b.png\r\n\r\n"
        large = images[0] + bytes(5 << 20)
        body = boundary + large + b"\r\n" + boundary + images[1] + b"\r\n--x--\r\n"
        form = post("/v1/predict", body, Content_Type="multipart/form-data; boundary=x")
        (reply,) = ask(server, [form])
        first, second = json.loads(reply.body)["results"]
        assert first["predictions"][0]["label"] == expected[0][0][0]
        assert second["predictions"][0]["label"] == expected[1][0][0]
        assert server.process.poll() is None


def test_without_a_home_and_a_current_folder_it_serves(images, expected, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()

    def leave():
        os.chdir(gone)
        gone.rmdir()

    with ServerProcess(environment={"HOME": "/nonexistent"}, before=leave) as server:
        still_answers(server, images, expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_everything_in_work_be_answered(images, expected, number):
    requests = repeat([post("/v1/predict", image) for image in images], 5000)
    # Under nohup it would be ignored.
    with ServerProcess(before=lambda: signal.signal(number, signal.SIG_DFL)) as server:
        timer = threading.Timer(0.5, server.process.send_signal, [number])
        timer.start()
        replies = ask(server, requests, connections=50)
        timer.join()
        assert server.process.wait(20) == 0
    answered = [reply for reply in replies if reply.status]
    assert {reply.status for reply in replies} <= {200, 503, 0}
    assert 50 <= len(answered) < 5000
    for reply in answered:
        if reply.status == 200:
            assert found(reply) == expected[reply.request % len(images)]


def test_an_upload_under_way_is_answered_after_sigterm(images, expected):
    request = post("/v1/predict", images[0])
    with ServerProcess() as server, connect(server) as connection:
        connection.sendall(request[:-10])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(request[-10:])
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(body)["results"][0]["predictions"][0]["label"] == expected[0][0][0]
        assert server.process.wait(20) == 0


def test_a_second_signal_ends_it_at_once():
    with ServerProcess() as server, connect(server) as connection:
        connection.sendall(SLOW["half a body"][0])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def test_two_servers_on_one_port(server, images, expected):
    with pytest.raises(RuntimeError) as error:
        with ServerProcess("--port", server.port):
            pass
    assert "already in use" in str(error.value)
    assert "--port" in str(error.value)
    assert "Traceback" not in str(error.value)
    still_answers(server, images, expected)


def test_the_model_is_overwritten_and_deleted_under_load(images, expected, tmp_path):
    path = tmp_path / "model.tflite"
    shutil.copyfile(bundled_model(), path)
    requests = [post("/v1/predict", image) for image in images]
    with ServerProcess(path) as server:

        def spoil():
            with open(path, "r+b") as file:  # pages that an engine may have mapped
                file.truncate(0)
                time.sleep(0.3)
                file.write(b"damaged" * 1000)
            server.wait_for("the old one stays")
            path.unlink()

        thread = threading.Thread(target=spoil)
        thread.start()
        replies = []
        while thread.is_alive():
            replies += ask(server, requests, connections=4)
        thread.join()
        replies += ask(server, requests, connections=4)
        shutil.copyfile(bundled_model(), path)
        server.wait_for("replaced by")
        replies += ask(server, requests, connections=4)
    assert {reply.status for reply in replies} == {200}
    for reply in replies:
        assert found(reply) == expected[reply.request]


def test_systemd_is_told_when_it_serves(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        with ServerProcess(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}):
            assert listener.recv(100) == b"READY=1"


def test_the_real_triton_client(server, images, expected):
    client_module = pytest.importorskip("tritonclient.http")
    client = client_module.InferenceServerClient(f"{server.host}:{server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("vit-edge-cifar100")
    assert client.get_model_metadata("vit-edge-cifar100")["inputs"][0]["datatype"] == "UINT8"
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])
    wanted = [answer[0][0].encode() for answer in expected]
    arrays = {
        "UINT8": pixels,
        "FP32": pixels.astype(np.float32),
        "BYTES": np.array(images, dtype=object),
    }
    for datatype, array in arrays.items():
        given = client_module.InferInput("images", list(array.shape), datatype)
        given.set_data_from_numpy(array)
        result = client.infer("vit-edge-cifar100", [given])
        assert list(result.as_numpy("labels")) == wanted
        best = result.as_numpy("probabilities").max(axis=1)
        np.testing.assert_allclose(best, [answer[0][1] for answer in expected], atol=1e-6)
    given = client_module.InferInput("images", [1, 2], "UINT8")
    given.set_data_from_numpy(np.zeros((1, 2), np.uint8))
    with pytest.raises(client_module.InferenceServerException, match="height, width"):
        client.infer("vit-edge-cifar100", [given])


def test_an_exported_model_is_verified_before_it_serves(exported_model):
    with ServerProcess(exported_model("-int8.tflite", "-int8.onnx", ".onnx")) as server:
        assert any(line.endswith(", verified") for line in server.log)
