"""Cameras, streams and video files, through OpenCV or picamera2, as RGB frames."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, Protocol

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import AnyArray

_TIMEOUT_MS = 5000
"""After which a stream that stalls counts as gone; OpenCV waits half a minute by itself."""
_RAW_RATE = 25.0
"""Frames a second of a stream that does not say it; FFmpeg's own guess."""
_QUIET = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
"""OpenCV and FFmpeg write of every damaged frame to stderr, with the source's own words."""
_PICAMERA2 = {"format": "BGR888", "size": (640, 480)}
"""picamera2's name for RGB arrays is the order of the bytes in a word."""


class Camera(Protocol):
    """What gives one frame after the other."""

    def read(self) -> tuple[AnyArray, float] | None:
        """The next frame, waited for; None where there is none: the end, or it went away.

        Returns:
            Pixels, uint8 ``(height, width, 3)`` in RGB or ``(height, width)``, and the frame's
            place in a video, in seconds; in a live picture that is nothing to go by.
        """

    def close(self) -> None:
        """Let go of the device."""


def open_camera(source: str) -> Camera:
    """Open a camera by its number, a stream by its URL, or a device or video file by its path.

    A number is that of picamera2, where that is installed and has such a camera, else OpenCV's.

    Raises:
        UsageError: there is no such file.
        VitsdError: nothing can be read from it, or OpenCV is missing.
    """
    name = shown(source)
    if _is_number(source):
        return _picamera2(int(source)) or _OpenCV(name, int(source))
    if _is_url(source):
        return _OpenCV(name, source)
    _check_path(source)
    # An absolute path: FFmpeg takes what stands before a colon for a protocol.
    return _OpenCV(name, os.path.abspath(source))


def is_video_file(source: str) -> bool:
    """Whether a source has an end: it is a regular file."""
    return not _is_url(source) and not _is_number(source) and Path(source).is_file()


def shown(source: str) -> str:
    """A source's name for messages and answers.

    Without what may be a password in a URL: before the host, and from the first parameter on.
    """
    if _is_number(source):
        return f"camera {source}"
    if not _is_url(source):
        return printable(source)
    source = re.sub(r"(?<=://)([^/@]*:.*|[^/]*)@", "", source)
    return printable(re.sub(r"[?&;#=].*", "...", source, flags=re.DOTALL))


def _is_number(source: str) -> bool:
    return source.isdecimal() and len(source) <= 3  # a longer one is none of a camera


def _is_url(source: str) -> bool:
    return re.match(r"\w+://", source) is not None


def _check_path(source: str) -> None:
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError) as error:
        raise UsageError(
            f"There is no camera or video {printable(source)!r}: give a camera's number, a URL, "
            "a device or a video file."
        ) from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"{printable(source)} is a folder: `watch` takes those.")


class _OpenCV:
    """What OpenCV opens; by ``name`` in messages."""

    def __init__(self, name: str, source: str | int) -> None:
        cv2 = _import_opencv()
        self._error = cv2.error
        self._position = cv2.CAP_PROP_POS_MSEC
        self._rate = cv2.CAP_PROP_FPS
        self._frames, self._seconds = 0, -1.0
        # FFmpeg and V4L2 by name: others would take a picture for a video of numbered pictures.
        if isinstance(source, int):
            self._capture = cv2.VideoCapture(source)
        elif source.startswith("/dev/"):
            self._capture = cv2.VideoCapture(source, cv2.CAP_V4L2)
        else:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
            timeouts = [value for limit in limits for value in (limit, _TIMEOUT_MS)]
            self._capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, timeouts)
        if not self._capture.isOpened():
            raise VitsdError(
                f"{name} can't be opened: OpenCV finds no camera or video there. Is it plugged "
                "in, in use elsewhere, or not permitted to this user?"
            )

    def read(self) -> tuple[AnyArray, float] | None:
        try:
            there, frame = self._capture.read()
        except self._error:
            return None
        if not there:
            return None
        # OpenCV's colors are BGR.
        pixels = frame[..., ::-1] if frame.ndim == 3 and frame.shape[2] == 3 else frame
        return pixels, self._seconds_of_next()

    def _seconds_of_next(self) -> float:
        """Where a frame lies in a video. Raw streams don't say it: there, frames come evenly."""
        seconds: float = self._capture.get(self._position) / 1000
        if not (math.isfinite(seconds) and seconds > self._seconds):
            rate = self._capture.get(self._rate)
            seconds = self._frames / (rate if rate > 0 else _RAW_RATE)
        self._frames, self._seconds = self._frames + 1, seconds
        return seconds

    def close(self) -> None:
        self._capture.release()


class _Picamera2:
    """A camera of a Raspberry Pi, once it is started."""

    def __init__(self, camera: Any) -> None:
        self._camera = camera

    def read(self) -> tuple[AnyArray, float] | None:
        try:
            return self._camera.capture_array(), 0.0
        except (RuntimeError, OSError):
            return None

    def close(self) -> None:
        self._camera.stop()
        self._camera.close()


def _picamera2(number: int) -> Camera | None:
    """The camera of this number, if picamera2 is there and has one."""
    if importlib.util.find_spec("picamera2") is None:
        return None
    try:
        picamera2: Any = importlib.import_module("picamera2").Picamera2
        if number >= len(picamera2.global_camera_info()):
            return None
        camera = picamera2(number)
        camera.configure(camera.create_video_configuration(_PICAMERA2))
        camera.start()
    except Exception as error:  # of libcamera's own kinds, and of a broken installation
        raise VitsdError(
            f"camera {number} can't be opened by picamera2: {first_line(error)}."
        ) from error
    return _Picamera2(camera)


def _import_opencv() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise VitsdError(
            'Cameras and videos need OpenCV: pip install "vitsd-runtime[camera]".'
        ) from error
