"""Cameras: what a source is taken for, colors, frames that are dropped, what is shown of a URL."""

import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.live import cameras
from vitsd_runtime.live.cameras import is_video_file, open_camera, shown
from vitsd_runtime.live.newest import NewestFrame, play

RED = np.full((48, 64, 3), (255, 0, 0), np.uint8)
FAST = (0.01, 0.02)
"""Pauses."""


def picture(number):
    return np.full((2, 2, 3), number, np.uint8)


class Fake:
    """A camera that gives pictures, then goes away."""

    def __init__(self, *pictures, wait=lambda: None):
        self._pictures, self._wait = list(pictures), wait
        self.closed = False

    def read(self):
        self._wait()
        return (self._pictures.pop(0), 0.0) if self._pictures else None

    def close(self):
        self.closed = True


class Plug:
    """Opens a camera, as often as it is plugged in; None stands for a socket that is empty."""

    def __init__(self, *found):
        self._found = list(found)
        self.empty = threading.Event()

    def __call__(self):
        if not self._found:
            self.empty.set()
        camera = self._found.pop(0) if self._found else None
        if camera is None:
            raise VitsdError("camera 0 can't be opened.")
        return camera


def test_the_newest_frame_is_taken_and_older_ones_are_counted():
    plug = Plug(Fake(*map(picture, range(10))))
    with NewestFrame(plug, "camera 0", lambda text: None, FAST) as camera:
        assert plug.empty.wait(10)  # all were read, and nobody was quick enough
        frame = camera.take()
    assert (frame.number, frame.pixels[0, 0, 0]) == (10, 9)
    assert camera.dropped == 9


def test_each_frame_is_taken_once():
    turn = threading.Semaphore(1)
    plug = Plug(Fake(*map(picture, range(3)), wait=turn.acquire))
    with NewestFrame(plug, "camera 0", lambda text: None, FAST) as camera:
        taken = []
        for _ in range(3):
            taken.append(camera.take().number)
            turn.release()
    assert taken == [1, 2, 3]
    assert camera.dropped == 0


def test_a_camera_is_opened_again_until_it_is_back():
    said = []
    first, second, third = Fake(picture(1)), Fake(), Fake(picture(2))
    plug = Plug(first, None, None, second, third)
    with NewestFrame(plug, "camera 0", said.append, FAST) as camera:
        assert plug.empty.wait(10)
        assert camera.take().number == 2
    assert first.closed
    assert second.closed
    assert third.closed
    assert said == [
        "camera 0 went away; it is tried again until it is back",
        "camera 0 is back",
        "camera 0 went away; it is tried again until it is back",
    ]


@pytest.mark.parametrize("found", [None, Fake()])
def test_a_camera_that_never_gave_a_picture_is_an_error(found):
    with NewestFrame(Plug(found), "camera 0", print, FAST) as camera, pytest.raises(VitsdError):
        camera.take()


def test_seconds_are_counted_by_a_clock_that_never_jumps(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1 / 0)
    plug = Plug(Fake(picture(1), picture(2)))
    with NewestFrame(plug, "camera 0", print, FAST) as camera:
        plug.empty.wait(10)
        assert 0 <= camera.take().seconds < 10


@pytest.fixture
def cv2():
    return pytest.importorskip("cv2")


@pytest.fixture
def video(cv2, tmp_path):
    path = tmp_path / "a:b.avi"  # FFmpeg takes what stands before a colon for a protocol
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(RED[..., ::-1])
    writer.release()
    return path


def test_a_video_is_played_in_rgb_to_its_end(video, monkeypatch):
    monkeypatch.chdir(video.parent)
    frames = list(play(open_camera(video.name), video.name))
    assert [frame.number for frame in frames] == [1, 2, 3]
    assert np.abs(frames[0].pixels.astype(int) - RED).max() < 10
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.1, 0.2])


def test_a_damaged_video_is_an_error(cv2, tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with pytest.raises(VitsdError, match=r"v\.mp4 can't be opened"):
        open_camera(str(tmp_path / "v.mp4"))


def test_a_video_without_a_picture_is_an_error():
    camera = Fake()
    with pytest.raises(VitsdError, match=r"v\.mp4 gives no picture"):
        list(play(camera, "v.mp4"))
    assert camera.closed


def test_what_is_no_source_is_misuse(tmp_path):
    with pytest.raises(UsageError, match="no camera or video"):
        open_camera(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="is a folder"):
        open_camera(str(tmp_path))
    with pytest.raises(UsageError, match="no camera or video"):
        open_camera("99999999999999999999")


def test_only_regular_files_have_an_end(tmp_path):
    (tmp_path / "v").touch()
    assert is_video_file(str(tmp_path / "v"))
    assert not is_video_file("0")
    assert not is_video_file("rtsp://host/v")
    assert not is_video_file("/dev/null")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://me:secret@host:554/1", "rtsp://host:554/1"),
        ("rtsp://me:sec@ret@host/1", "rtsp://host/1"),
        ("rtsp://me:sec/ret@host/1", "rtsp://host/1"),
        ("http://host/video?user=me&pwd=secret", "http://host/video..."),
        ("rtsp://host:554/user=me&password=secret&channel=1", "rtsp://host:554/user..."),
        ("http://host/video;token\nsecret", "http://host/video..."),
        ("rtsp://host:554/1", "rtsp://host:554/1"),
        ("rtsp://host/a@b", "rtsp://host/a@b"),
    ],
)
def test_passwords_in_a_url_are_not_shown(url, name):
    assert shown(url) == name


def test_other_sources_are_shown_as_they_are():
    assert shown("videos/a=b?c.mp4") == "videos/a=b?c.mp4"
    assert shown("2") == "camera 2"
    assert shown("a\x1b[31m") == r"a\x1b[31m"


def test_a_missing_opencv_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(VitsdError, match=r"vitsd-runtime\[camera\]"):
        open_camera("rtsp://host/1")


@pytest.fixture
def picamera2(monkeypatch):
    """A stand-in for picamera2 with one camera; remembers what was done with it."""
    done = []

    class Picamera2:
        @staticmethod
        def global_camera_info():
            return [{"Model": "imx708"}]

        def __init__(self, number):
            done.append(("open", number))

        def create_video_configuration(self, main):
            return main

        def configure(self, configuration):
            done.append(("configure", configuration["format"]))

        def start(self):
            done.append("start")

        def capture_array(self):
            if done.count("frame") == 2:
                raise RuntimeError("camera frontend has timed out")
            done.append("frame")
            return RED

        def stop(self):
            done.append("stop")

        def close(self):
            done.append("close")

    module = ModuleType("picamera2")
    module.__spec__ = SimpleNamespace(name="picamera2")
    module.Picamera2 = Picamera2
    monkeypatch.setitem(sys.modules, "picamera2", module)
    return SimpleNamespace(done=done, module=module)


def test_picamera2_is_used_where_it_has_the_camera(picamera2):
    camera = open_camera("0")
    np.testing.assert_array_equal(camera.read()[0], RED)
    assert camera.read() is not None
    assert camera.read() is None  # it went away
    camera.close()
    assert picamera2.done == [
        *(("open", 0), ("configure", "BGR888"), "start", "frame", "frame", "stop", "close"),
    ]


def test_other_cameras_are_opencvs(picamera2, monkeypatch):
    opened = []
    monkeypatch.setattr(cameras, "_OpenCV", lambda name, source: opened.append((name, source)))
    open_camera("1")
    open_camera("http://host/")
    assert opened == [("camera 1", 1), ("http://host/", "http://host/")]


def test_a_camera_that_is_in_use_is_an_error(picamera2):
    def refuse(self):
        raise RuntimeError("Failed to acquire camera: Device or resource busy\nand more")

    picamera2.module.Picamera2.start = refuse
    with pytest.raises(VitsdError, match=r"camera 0 can't be opened by picamera2: .* busy"):
        open_camera("0")
