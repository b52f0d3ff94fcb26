"""``vitsd-predict --camera``: answers to what a camera or a video shows."""

from __future__ import annotations

import argparse
import collections
import json
import math
import shutil
import sys
import time
from functools import partial
from typing import Any

from vitsd_runtime.classifier import Classifier, answer_dict
from vitsd_runtime.cli import output
from vitsd_runtime.live.cameras import open_camera, shown
from vitsd_runtime.live.newest import Frame, NewestFrame, play

_RATE_FRAMES = 30
"""Answers that the rate is taken over."""
_REWRITE_SECONDS = 0.1
"""Between two versions of the live line: more, nobody can read."""


def play_video(classifier: Classifier, arguments: argparse.Namespace) -> None:
    """Classify every frame of a video file, or one each ``every`` seconds of it.

    Raises:
        UsageError: there is no such file.
        VitsdError: it can't be played, or the model fails.
    """
    source = arguments.camera
    with _Frames(classifier, arguments) as frames:
        due = -math.inf
        for frame in play(open_camera(source), shown(source)):
            if frame.seconds >= due:
                frames.answer(frame, dropped=0)
                due = frame.seconds + (arguments.every or 0)


def follow_camera(classifier: Classifier, arguments: argparse.Namespace) -> None:
    """Classify what a camera or a stream shows now, for ever.

    Raises:
        UsageError: there is no such camera.
        VitsdError: it can't be opened at first, or the model fails.
    """
    source = arguments.camera
    with (
        _Frames(classifier, arguments) as frames,
        NewestFrame(partial(open_camera, source), shown(source), frames.note) as camera,
    ):
        while True:
            due = time.monotonic() + (arguments.every or 0)
            frames.answer(camera.take(), camera.dropped)
            time.sleep(max(0.0, due - time.monotonic()))


class _Frames:
    """Answers frames: on a terminal in one line, else in a line for each."""

    def __init__(self, classifier: Classifier, arguments: argparse.Namespace) -> None:
        self._classifier, self._arguments = classifier, arguments
        self._name = shown(arguments.camera)
        self._times: collections.deque[float] = collections.deque(maxlen=_RATE_FRAMES)
        self._live = not arguments.json and sys.stdout.isatty()
        self._rewritten = 0.0
        self._length = 0

    def __enter__(self) -> _Frames:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._length:
            print()

    def note(self, text: str) -> None:
        """Say something, in a line of its own."""
        if self._length:
            print()
        self._length = 0
        output.note(text)

    def answer(self, frame: Frame, dropped: int) -> None:
        """Classify a frame and show the answer."""
        arguments = self._arguments
        answer = self._classifier.predict(
            frame.pixels, arguments.top_k, tta=arguments.tta, resize_mode=arguments.resize_mode
        )[0]
        self._times.append(time.monotonic())
        passed = self._times[-1] - self._times[0]
        rate = (len(self._times) - 1) / passed if passed else 0.0
        if arguments.json:
            line = {
                "time": output.now(),
                "image": self._name,
                "frame": frame.number,
                "seconds": round(frame.seconds, 3),
                **answer_dict(answer),
                "frames_per_second": round(rate, 2),
                "dropped": dropped,
            }
            output.write(json.dumps(line) + "\n")
            return
        speed = f"{rate:.1f} frames/s, {dropped} dropped"
        if self._live:
            self._rewrite(f"{output.describe(answer[:1])}  {speed}")
        else:
            text = f"{self._name}, {frame.seconds:.1f} s: {output.describe(answer)}; {speed}"
            output.write(f"{text}\n")

    def _rewrite(self, text: str) -> None:
        if self._times[-1] < self._rewritten + _REWRITE_SECONDS:
            return
        columns = shutil.get_terminal_size().columns or 80  # 0 of an unsized one, to Python 3.9
        text = text[: columns - 1]
        output.write(f"\r{text.ljust(self._length)}")
        self._length, self._rewritten = len(text), self._times[-1]
