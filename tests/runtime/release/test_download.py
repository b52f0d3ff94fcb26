"""Hosts that cut off, send too much, too little, too slowly, or something else."""

import itertools
import os
import resource
import time

import pytest

from vitsd_runtime import UsageError, VitsdError
from vitsd_runtime.release import agent, download
from vitsd_runtime.release.download import Host

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def send():
    """A function that answers with a length."""

    def answer(request, content, status=200, **headers):
        request.send_response(status)
        for name, value in {"Content_Length": len(content), **headers}.items():
            request.send_header(name.replace("_", "-"), str(value))
        request.end_headers()
        request.wfile.write(content)

    return answer


@pytest.fixture
def part(tmp_path):
    return tmp_path / "part"


def test_a_whole_file_from_a_static_host(serve, send, publisher, device):
    publisher.index((1, CONTENT))
    root = publisher.folder

    def answer(request):
        send(request, (root / request.path.lstrip("/")).read_bytes())

    device.pull(serve(answer))
    assert device.in_use() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_taken_up_where_it_broke(serve, send, part, ranges, monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0.01)
    asked = []

    def answer(request):
        asked.append(request.headers["Range"])
        start = int(asked[-1][6:-1]) if asked[-1] and ranges else 0
        piece = CONTENT[start : start + 300_000] if ranges or len(asked) < 3 else CONTENT
        place = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        length = {"Content_Length": len(CONTENT) - start}
        send(request, piece, 206 if start else 200, **length, **(place if start else {}))

    Host(serve(answer), 20).fetch("x", part, len(CONTENT))
    assert part.read_bytes() == CONTENT
    assert len(asked) == (4 if ranges else 3)
    assert asked[1] == "bytes=300000-"


def test_a_host_that_is_silent_for_a_while_is_asked_again(serve, send, part, monkeypatch):
    monkeypatch.setattr(download, "_SILENCE", 0.3)
    asked = []

    def answer(request):
        asked.append(request.headers["Range"])
        if len(asked) == 1:
            send(request, CONTENT[:100], Content_Length=len(CONTENT))
            time.sleep(0.6)
        else:
            start = int(asked[-1][6:-1])
            place = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            length = len(CONTENT) - start
            first = CONTENT[start : start + 1000]
            send(request, first, 206, Content_Range=place, Content_Length=length)
            time.sleep(0.05)
            request.wfile.write(CONTENT[start + 1000 :])

    Host(serve(answer), 20).fetch("x", part, len(CONTENT))
    assert part.read_bytes() == CONTENT
    assert len(asked) == 2


def test_the_clock_runs_from_the_first_request(serve, send, monkeypatch):
    monkeypatch.setattr(download, "_SILENCE", 0.2)
    host = Host(serve(lambda request: send(request, b"index")), 0.5)
    time.sleep(0.6)  # the model in use is tried meanwhile
    assert host.read("x", 100) == b"index"


def test_what_is_there_from_the_last_time_is_not_asked_for_again(serve, send, part):
    part.write_bytes(CONTENT[:1000])

    def answer(request):
        assert request.headers["Range"] == "bytes=1000-"
        send(request, CONTENT[1000:], 206, Content_Range=f"bytes 1000-9/{len(CONTENT)}")

    Host(serve(answer), 20).fetch("x", part, len(CONTENT))
    assert part.read_bytes() == CONTENT


def test_a_host_that_cuts_off_for_ever_is_given_up(serve, send, part, monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    asked = []

    def answer(request):
        asked.append(1)
        send(request, b"", Content_Length=len(CONTENT))

    with pytest.raises(VitsdError, match="connection was closed"):
        Host(serve(answer), 20).fetch("x", part, len(CONTENT))
    assert len(asked) == 4


@pytest.mark.parametrize("said", [True, False])
def test_no_more_than_was_signed_is_written(serve, send, part, said):
    def answer(request):
        if said:
            send(request, b"x", Content_Length=2 * len(CONTENT))
        else:
            request.send_response(200)
            request.end_headers()
            for _ in range(10_000):
                request.wfile.write(CONTENT)

    with pytest.raises(VitsdError, match="signed"):
        Host(serve(answer), 20).fetch("x", part, len(CONTENT))
    assert part.stat().st_size <= len(CONTENT)


def test_an_index_without_an_end_is_refused(serve):
    def answer(request):
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b" " * 65536)

    with pytest.raises(VitsdError, match="more than 1,000,000 bytes"):
        Host(serve(answer), 20).read("index.json", 1_000_000)


def drip_head(request):
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        request.wfile.write(b"X-%d: x\r\n" % number)
        time.sleep(0.05)


def drip_body(request):
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize("answer", [drip_head, drip_body, lambda request: time.sleep(60)])
def test_the_time_is_bounded_whatever_the_host_does(serve, part, answer):
    url = serve(answer)
    for work in (
        lambda host: host.read("x", 10**6),
        lambda host: host.fetch("x", part, len(CONTENT)),
    ):
        with pytest.raises(VitsdError, match="The time is up"):
            work(Host(url, 0.3))


def test_a_trickle_is_too_slow_before_the_time_is_up(serve, part, monkeypatch):
    monkeypatch.setattr(download, "_SILENCE", 0.2)
    with pytest.raises(VitsdError, match=r"too slow: [0-9]+ bytes"):
        Host(serve(drip_body), 20).fetch("x", part, len(CONTENT))


@pytest.mark.parametrize("status", [204, 206, 403, 404, 416, 500])
def test_other_answers_are_said(serve, send, part, status):
    url = serve(lambda request: send(request, b"", status))
    for work in (
        lambda host: host.read("x", 10**6),
        lambda host: host.fetch("x", part, len(CONTENT)),
    ):
        with pytest.raises(VitsdError, match=f"{status}|another part"):
            work(Host(url, 20))


def test_another_part_than_was_asked_is_refused(serve, send, part):
    part.write_bytes(b"beginning")
    url = serve(lambda r: send(r, CONTENT, 206, Content_Range=f"bytes 0-9/{len(CONTENT)}"))
    with pytest.raises(VitsdError, match="another part"):
        Host(url, 20).fetch("x", part, len(CONTENT))
    assert part.read_bytes() == b"beginning"


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://localhost/x", "data:,x", "//[x", "http://a b/"]
)
def test_redirects_lead_to_no_other_kind_of_url(serve, send, target):
    url = serve(lambda request: send(request, b"", 302, Location=target))
    with pytest.raises(VitsdError):
        Host(url, 20).read("x", 10**6)


def test_redirects_end(serve, send):
    asked = []

    def answer(request):
        asked.append(1)
        send(request, b"", 302, Location=f"/{len(asked)}")

    with pytest.raises(VitsdError, match="302"):
        Host(serve(answer), 20).read("x", 10**6)
    assert len(asked) <= 7


def test_a_redirect_is_followed(serve, send):
    def answer(request):
        if request.path == "/x":
            send(request, b"", 302, Location="/y")
        else:
            send(request, b"content")

    assert Host(serve(answer), 20).read("x", 100) == b"content"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "/etc",
        "ftp://host/",
        "http://",
        "http://host:port/",
        "http://user:secret@host/",
        "https://host/?token=secret",
        "http://host/a b",
        "http://host/\x1b",
        "data:,x",
        "file:x",
        "file://x/y",
        "file:///x?",
        "https://host/x?",
        "https://host/x#",
    ],
)
def test_other_urls_are_misuse_and_passwords_are_not_shown(url):
    with pytest.raises(UsageError) as caught:
        Host(url, 20)
    assert "secret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("start", ["FILE://", "file://localhost", "file:"])
def test_files_have_several_urls(tmp_path, start):
    (tmp_path / "x").write_text("content")
    assert Host(f"{start}{tmp_path}", 20).read("x", 100) == b"content"


def test_a_page_to_log_in_is_no_index(serve, send, publisher, device):
    publisher.index((1, b"one"))
    url = serve(lambda r: send(r, b"<html>Log in</html>", Content_Type="text/html"))
    with pytest.raises(VitsdError, match=r"no index: .* where one must log in"):
        device.pull(url)


def test_why_a_host_is_not_reached_is_said_plainly(device):
    with pytest.raises(VitsdError, match=r"index.json can't be read: Connection refused\.$"):
        device.pull("http://127.0.0.1:1")
    assert "Connection refused" in device.state()["last_error"]


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_index_is_refused(publisher, device, keep):
    publisher.index((1, b"one"))
    path = publisher.folder / agent.INDEX
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(VitsdError, match="is no index"):
        device.pull()
    assert device.in_use() is None


def test_other_bytes_than_the_signed_ones_are_refused_and_removed(publisher, device):
    publisher.index((1, b"one"))
    (file,) = (publisher.folder / agent.FILES).iterdir()
    file.write_bytes(b"oen")
    with pytest.raises(VitsdError, match="not what was signed"):
        device.pull()
    assert os.listdir(device.folder / "downloads") == []
    file.write_bytes(b"one")
    device.pull()
    assert device.in_use() == b"one"


def test_a_beginning_that_a_power_cut_spoiled_is_downloaded_again(publisher, device):
    publisher.index((1, CONTENT))
    (file,) = (publisher.folder / agent.FILES).iterdir()
    (device.folder / "downloads").mkdir(parents=True)
    (device.folder / "downloads" / file.name).write_bytes(bytes(5000))
    device.pull()
    assert device.in_use() == CONTENT


def test_a_pipe_in_the_place_of_a_file_is_refused(publisher, device):
    publisher.index((1, b"one"))
    (file,) = (publisher.folder / agent.FILES).iterdir()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(VitsdError, match="is no file"):
        device.pull()


def test_a_full_disk_leaves_the_old_version_and_no_download(publisher, device):
    publisher.index((1, b"one"))
    device.pull()
    publisher.index((2, CONTENT))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no larger file
    try:
        with pytest.raises(OSError, match="File too large"):
            device.pull()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert device.in_use() == b"one"
    assert "File too large" in device.state()["last_error"]
    assert os.listdir(device.folder / "downloads") == []
    device.pull()
    assert device.in_use() == CONTENT
