"""vitsd-predict on cameras and watched folders, as a process that is stopped and started again."""

import collections
import contextlib
import http.server
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime.models.catalog import bundled_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(200),
    pytest.mark.skipif(os.name == "nt", reason="signals"),
]
MODULE = "vitsd_runtime.cli.predict"
ONE = ("--num-threads", "1", "--top-k", "1")
DEADLINE = 120
"""Seconds that waiting takes at most."""


@pytest.fixture
def model(tmp_path):
    pytest.importorskip("ai_edge_litert")
    return shutil.copyfile(bundled_model(), tmp_path / "model.tflite")


@pytest.fixture
def start(model):
    """Start the command; it is killed at the end of the test if it still runs."""
    with contextlib.ExitStack() as stack:

        def start(*words, stdout=subprocess.PIPE, env=None):
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, "--model", model, *ONE, *map(str, words)],
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **(env or {})},
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


def until(condition):
    """Wait for something to come true."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def stop(process, number=signal.SIGTERM):
    """End the process by a signal; returns what it printed on both streams since."""
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE)
    assert "Traceback" not in err
    return out, err


def png(seed=0):
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def fill(folder, *names):
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png(seed))


def answers(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(path):
    return [answer["image"] for answer in answers(path)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_folder_is_watched_until_a_signal_which_is_no_failure(start, tmp_path, number):
    fill(tmp_path / "photos", "a.png")
    process = start("--watch", tmp_path / "photos", "--json")
    first = json.loads(process.stdout.readline())
    assert first["image"] == "a.png"
    assert set(first) == {"image", "time", "known", "predictions"}
    fill(tmp_path / "photos", "sub/b.png")
    assert json.loads(process.stdout.readline())["image"] == "sub/b.png"
    assert stop(process, number)[0] == ""
    assert process.returncode == 0


def test_what_was_answered_is_remembered_in_the_folder(start, tmp_path):
    fill(tmp_path / "photos", "a.png", "b.png")
    first = start("--watch", tmp_path / "photos")
    assert [first.stdout.readline()[:6] for _ in range(2)] == ["a.png:", "b.png:"]
    stop(first)
    fill(tmp_path / "photos", "c.png")
    second = start("--watch", tmp_path / "photos")
    assert second.stdout.readline().startswith("c.png:")
    assert stop(second)[0] == ""


def arrive(folder, count):
    """Write files as others do: at once, in two parts, by renaming; some are deleted."""
    for i in range(count):
        content, path = png(i), folder / f"{i:04}.png"
        if i % 50 == 1:
            with open(path, "wb") as file:
                file.write(content[:100])
                file.flush()
                time.sleep(0.03)
                file.write(content[100:])
        elif i % 3 == 0:
            (folder / f".{i}").write_bytes(content)
            (folder / f".{i}").rename(path)
        else:
            path.write_bytes(content)
        if i % 10 == 0:
            time.sleep(0.02)


@pytest.mark.parametrize("in_file", [True, False])
def test_2000_images_are_answered_once_however_often_it_is_killed(start, tmp_path, in_file):
    folder, results = tmp_path / "photos", tmp_path / "answers.jsonl"
    folder.mkdir()
    words = ["--output", results] if in_file else ["--json"]
    # What is printed and what is remembered are two files: only a clean end keeps them together.
    signals = [signal.SIGKILL, signal.SIGTERM] if in_file else [signal.SIGTERM, signal.SIGINT]
    writer = threading.Thread(target=arrive, args=(folder, 2000))
    writer.start()
    progress = random.Random(0)
    kills = 0
    while writer.is_alive() or len(names(results)) < 2000:
        with open(os.devnull if in_file else results, "a") as stdout:
            process = start("--watch", folder, *words, stdout=stdout)
        enough = min(2000, len(names(results)) + progress.randrange(1, 500))
        until(
            lambda enough=enough: results.exists() and results.read_bytes().count(b"\n") >= enough
        )
        stop(process, signals[kills % 2])
        kills += 1
    writer.join()
    assert kills > 2
    assert collections.Counter(names(results)) == {f"{i:04}.png": 1 for i in range(2000)}
    assert all(answer["predictions"] for answer in answers(results))


def test_the_model_may_be_replaced_or_removed_while_it_watches(start, tmp_path, model):
    fill(tmp_path / "photos", "a.png")
    process = start("--watch", tmp_path / "photos")
    process.stdout.readline()
    replacement = shutil.copyfile(model, tmp_path / "new")
    os.replace(replacement, model)
    fill(tmp_path / "photos", "b.png")
    assert process.stdout.readline().startswith("b.png: ")
    model.unlink()
    fill(tmp_path / "photos", "c.png")
    assert process.stdout.readline().startswith("c.png: ")
    _, said = stop(process)
    assert said.count("start again for the new one") == 2


def test_the_folder_may_go_and_come_back(start, tmp_path):
    folder = tmp_path / "photos"
    fill(folder, "a.png")
    process = start("--watch", folder)
    process.stdout.readline()
    shutil.rmtree(folder)
    assert "looked for until it is back" in process.stderr.readline()
    fill(folder, "b.png")
    assert "is back" in process.stderr.readline()
    assert process.stdout.readline().startswith("b.png: ")
    stop(process)
    again = start("--watch", folder)
    fill(folder, "c.png", "d.png")
    assert again.stdout.readline().startswith("c.png: ")
    stop(again)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_full_disk_ends_it_and_the_next_start_goes_on(start, tmp_path):
    fill(tmp_path / "photos", "a.png")
    with open("/dev/full", "w") as full:
        process = start("--watch", tmp_path / "photos", "--json", stdout=full)
        assert process.wait(DEADLINE) == 1
    assert "the disk is full" in process.stderr.read()
    process = start("--watch", tmp_path / "photos", "--json")
    assert json.loads(process.stdout.readline())["image"] == "a.png"
    stop(process)


def test_answers_that_the_disk_has_no_room_for_are_given_later(start, tmp_path):
    resource = pytest.importorskip("resource")
    fill(tmp_path / "photos", "a.png")
    results = tmp_path / "answers.jsonl"
    process = start("--watch", tmp_path / "photos", "--output", results)
    until(lambda: names(results) == ["a.png"])
    # A limit of the size of files stands for a disk that gets full: the next answer fits half.
    size = results.stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + size // 2,) * 2)
    fill(tmp_path / "photos", "b.png")
    assert process.wait(DEADLINE) == 1
    assert "Traceback" not in process.stderr.read()
    assert results.stat().st_size == size
    process = start("--watch", tmp_path / "photos", "--output", results)
    until(lambda: names(results) == ["a.png", "b.png"])
    stop(process)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_can_not_be_written_to_needs_a_file_elsewhere(start, tmp_path):
    fill(tmp_path / "photos", "a.png")
    (tmp_path / "photos").chmod(0o555)
    refused = start("--watch", tmp_path / "photos")
    assert refused.wait(DEADLINE) == 1
    assert "Name a file elsewhere with --output" in refused.stderr.read()
    process = start("--watch", tmp_path / "photos", "--output", tmp_path / "answers.jsonl")
    until(lambda: names(tmp_path / "answers.jsonl") == ["a.png"])
    stop(process)


def test_neither_a_home_nor_a_place_for_temporary_files_is_needed(start, tmp_path):
    fill(tmp_path / "photos", "a.png")
    nowhere = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), "/nonexistent")
    process = start("--watch", tmp_path / "photos", env=nowhere)
    assert process.stdout.readline().startswith("a.png: ")
    stop(process)


def video(path, frames=12):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), (0, 20 * i, 255), np.uint8))
    writer.release()
    return path


def test_every_frame_of_a_video_is_answered_and_then_it_ends(start, tmp_path):
    process = start("--camera", video(tmp_path / "v.avi"), "--json")
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["frame"] for line in lines] == list(range(1, 13))
    assert {line["dropped"] for line in lines} == {0}
    assert lines[-1]["seconds"] == pytest.approx(1.1)
    assert set(lines[0]) == {
        *("time", "image", "frame", "seconds", "known", "predictions"),
        *("frames_per_second", "dropped"),
    }


@pytest.mark.parametrize(("every", "answered"), [("0", 12), ("0.1", 4)])
def test_frames_without_a_time_are_answered_too(start, tmp_path, every, answered):
    pytest.importorskip("cv2")
    with open(tmp_path / "raw.mjpeg", "wb") as file:
        for i in range(12):
            Image.new("RGB", (64, 48), (20 * i, 0, 0)).save(file, "jpeg")
    process = start("--camera", tmp_path / "raw.mjpeg", "--json", "--every", every)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == answered
    assert lines[0]["frame"] == 1
    assert all(0 <= line["seconds"] < 1 for line in lines)


def test_seconds_between_answers_are_those_of_the_video(start, tmp_path):
    process = start("--camera", video(tmp_path / "v.avi"), "--json", "--every", "0.5")
    out, _ = process.communicate(timeout=DEADLINE)
    assert [json.loads(line)["frame"] for line in out.splitlines()] == [1, 6, 11]


@pytest.fixture
def stream():
    """A camera in the network: a server of motion JPEG that can be taken away and come back."""
    pytest.importorskip("cv2")
    content = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(content, "jpeg")
    jpeg = content.getvalue()

    class Stream(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                while camera.plugged:
                    self.wfile.write(
                        b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
                        % len(jpeg)
                        + jpeg
                        + b"\r\n"
                    )
                    time.sleep(0.01)
                    while camera.stalled:
                        time.sleep(0.05)

        def log_message(self, *_):
            pass

    class Camera:
        plugged, stalled, server = False, False, None
        port = 0

        def plug(self):
            http.server.ThreadingHTTPServer.allow_reuse_address = True
            address = ("127.0.0.1", self.port)
            self.server = http.server.ThreadingHTTPServer(address, Stream)
            self.server.daemon_threads = True
            self.port, self.plugged = self.server.server_address[1], True
            threading.Thread(target=self.server.serve_forever, daemon=True).start()
            return f"http://user:secret@127.0.0.1:{self.port}/"

        def unplug(self):
            self.plugged = False
            self.server.shutdown()
            self.server.server_close()

    camera = Camera()
    yield camera
    camera.stalled = False
    if camera.plugged:
        camera.unplug()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_camera_may_go_away_and_come_back(start, stream, number):
    process = start("--camera", stream.plug(), "--json")
    first = json.loads(process.stdout.readline())
    assert first["image"] == f"http://127.0.0.1:{stream.port}/"
    stream.unplug()
    gone = process.stderr.readline()
    assert "went away" in gone
    assert "secret" not in gone
    time.sleep(1.5)  # it is tried in vain at least once
    stream.plug()
    assert "is back" in process.stderr.readline()
    while json.loads(process.stdout.readline())["seconds"] < first["seconds"] + 1.5:
        pass
    assert stop(process, number)[1] == ""
    assert process.returncode == 0


def test_a_camera_that_hangs_does_not_keep_it_from_ending(start, stream):
    process = start("--camera", stream.plug(), "--json")
    process.stdout.readline()
    stream.stalled = True
    time.sleep(0.5)
    stop(process)
    assert process.returncode == 0


def test_a_camera_that_is_not_there_is_an_error(start, stream):
    url = stream.plug()
    stream.unplug()
    process = start("--camera", url)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "can't be opened" in err
    assert "secret" not in err


def test_a_terminal_shows_one_line(start, stream):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = start("--camera", stream.plug(), stdout=theirs)
    os.close(theirs)
    shown = b""
    while shown.count(b"\r") < 3:
        shown += os.read(ours, 4096)
    assert b"\n" not in shown
    assert b"frames/s" in shown
    assert b"dropped" in shown
    stop(process)
    os.close(ours)
