"""The newest frame of a camera, however long each takes to be answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.live.cameras import Camera
from vitsd_runtime.types import AnyArray

_PAUSES = (1.0, 30.0)
"""Seconds before a camera that went away is tried again; twice as long each time, to the second."""
_JOIN_SECONDS = 2.0
"""How long the end waits for a camera; native code may hang in a driver."""


@dataclass(frozen=True)
class Frame:
    """One picture of a camera or a video."""

    pixels: AnyArray
    """uint8 ``(height, width, 3)`` in RGB, or ``(height, width)``."""
    number: int
    """From 1, of all that came."""
    seconds: float
    """Since the first frame, by a clock that never jumps; in a video, its place there."""


class NewestFrame:
    """Reads a live camera in a thread of its own and keeps its newest frame; use with ``with``.

    A camera that goes away is opened again and again until it is back.

    Args:
        open_camera: opens it.
        name: for messages.
        tell: called with a message when the camera goes away and when it is back, once each.
        pauses: seconds before it is tried again, the first and the longest.
    """

    def __init__(
        self,
        open_camera: Callable[[], Camera],
        name: str,
        tell: Callable[[str], None],
        pauses: tuple[float, float] = _PAUSES,
    ) -> None:
        self._open, self._name, self._tell, self._pauses = open_camera, name, tell, pauses
        self.dropped = 0
        """Frames that a newer one came before."""
        self._frame: Frame | None = None
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> NewestFrame:
        """Start to read."""
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Stop reading and close the camera."""
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)

    def take(self) -> Frame:
        """Wait for a frame that was not taken yet; each is taken once.

        Raises:
            VitsdError: the camera can't be opened, or gave no frame from the start.
        """
        with self._changed:
            while self._frame is None:
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            frame, self._frame = self._frame, None
            return frame

    def _run(self) -> None:
        try:
            start = None
            for number, pixels in enumerate(self._frames(), 1):
                now = time.monotonic()
                start = now if start is None else start
                with self._changed:
                    self.dropped += self._frame is not None
                    self._frame = Frame(pixels, number, now - start)
                    self._changed.notify()
        except BaseException as error:  # raised where frames are waited for
            with self._changed:
                self._error = error
                self._changed.notify()

    def _frames(self) -> Iterator[AnyArray]:
        """Frames, until the end is wished for, whatever the camera does in between."""
        came = away = False
        first, longest = self._pauses
        pause = first
        while not self._ended.is_set():
            try:
                for pixels in self._until_it_goes():
                    if away:
                        self._tell(f"{self._name} is back")
                    came, away, pause = True, False, first
                    yield pixels
            except VitsdError:
                if not came:
                    raise
            if not away and not self._ended.is_set():
                self._tell(f"{self._name} went away; it is tried again until it is back")
            away = True
            self._ended.wait(pause)
            pause = min(2 * pause, longest)

    def _until_it_goes(self) -> Iterator[AnyArray]:
        camera = self._open()
        try:
            read = camera.read()
            if read is None:
                raise VitsdError(f"{self._name} gives no picture.")
            while read is not None and not self._ended.is_set():
                yield read[0]
                read = camera.read()
        finally:
            camera.close()


def play(camera: Camera, name: str) -> Iterator[Frame]:
    """Every frame of a video, in order, to its end; then the video is closed.

    Raises:
        VitsdError: it has none; its ``name`` is in the message.
    """
    number = 0
    try:
        while (read := camera.read()) is not None:
            number += 1
            yield Frame(read[0], number, read[1])
        if not number:
            raise VitsdError(f"{name} gives no picture that can be read: is it a video?")
    finally:
        camera.close()
