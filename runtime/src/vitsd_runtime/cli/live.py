"""``vitsd-predict`` on what comes by and by: a camera, or a folder that is watched."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from vitsd_runtime.classifier import Classifier, answer_dict
from vitsd_runtime.cli import options, output
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import SUFFIXES
from vitsd_runtime.images.decoding import need_pillow
from vitsd_runtime.images.loading import load_for_model
from vitsd_runtime.images.tta import make_views
from vitsd_runtime.live.cameras import is_video_file, open_camera, shown
from vitsd_runtime.live.folder import Watch
from vitsd_runtime.live.ledger import Ledger
from vitsd_runtime.live.newest import Frame, NewestFrame, play
from vitsd_runtime.system.files import identify
from vitsd_runtime.system.signals import accept_signal, hold_signals
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import UInt8Array
from vitsd_runtime.validation import Option

_EVERY = Option("seconds", float, at_least=0, at_most=86_400)
_LOOK_SECONDS = 1.0
"""Between two looks into a folder."""
_RATE_FRAMES = 30
"""Answers that the rate is taken over."""
_REWRITE_SECONDS = 0.1
"""Between two versions of the live line: more, nobody can read."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of what comes by and by."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--camera",
        nargs="?",
        const="0",
        metavar="N|URL|FILE",
        help="classify what a camera shows (default: 0), a stream, or every frame of a video file",
    )
    source.add_argument(
        "--watch", metavar="DIR", help="classify the images of a folder, and new ones as they come"
    )
    parser.add_argument(
        "--every",
        type=options.type_of(_EVERY),
        metavar="SECONDS",
        help="with --camera: between two answers (default: as many as can be); with --watch: "
        "between two looks into the folder (default: 1)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="with --watch: append the answers to FILE, as JSON lines, each exactly once however "
        "the command ends (default: print them, and remember in DIR what was answered)",
    )


def is_asked_for(arguments: argparse.Namespace) -> bool:
    """Whether the command is to classify a camera's images or those of a watched folder.

    Raises:
        UsageError: options that do not belong together.
    """
    watch, camera = arguments.watch is not None, arguments.camera is not None
    if arguments.every is not None and not (watch or camera):
        raise UsageError("`every` belongs to `camera` and `watch`.")
    if arguments.output is not None and not watch:
        raise UsageError("`output` belongs to `watch`.")
    if arguments.watch == "":  # pathlib takes it for the current folder
        raise UsageError("`watch` is empty: is it that of an unset variable?")
    if arguments.csv and (watch or camera):
        raise UsageError("`csv` is for images that are named; use `json` here.")
    if camera and Path(arguments.camera).suffix.lower() in SUFFIXES:
        raise UsageError(f"{printable(arguments.camera)} is a model: name it before `camera`.")
    return watch or camera


def run(classifier: Classifier, arguments: argparse.Namespace) -> None:
    """Classify until the video ends or, without an end, until a signal comes.

    Raises:
        UsageError: there is no such camera, video or folder.
        VitsdError: it can't be opened, or the model fails.
        KeyboardInterrupt, SystemExit: a signal, before a video was at its end.
    """
    if arguments.watch is not None:
        with _until_a_signal():
            _watch(classifier, arguments)
    elif is_video_file(arguments.camera):
        _play(classifier, arguments)
    else:
        with _until_a_signal():
            _follow(classifier, arguments)


@contextlib.contextmanager
def _until_a_signal() -> Iterator[None]:
    """A signal is how what has no end is ended; it is no failure."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        accept_signal()


def _note(text: str) -> None:
    print(f"vitsd-predict: note: {text}", file=sys.stderr)


# Cameras and videos


def _play(classifier: Classifier, arguments: argparse.Namespace) -> None:
    source = arguments.camera
    with _Frames(classifier, arguments) as frames:
        due = 0.0
        for frame in play(open_camera(source), shown(source)):
            if frame.seconds >= due:
                frames.answer(frame, dropped=0)
                due = frame.seconds + (arguments.every or 0)


def _follow(classifier: Classifier, arguments: argparse.Namespace) -> None:
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
        _note(text)

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
                "time": _now(),
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
        text = text[: shutil.get_terminal_size().columns - 1]
        output.write(f"\r{text:{self._length}}")
        self._length, self._rewritten = len(text), self._times[-1]


# Folders


def _watch(classifier: Classifier, arguments: argparse.Namespace) -> None:
    folder = Path(arguments.watch)
    if not folder.is_dir():
        raise UsageError(f"There is no folder {printable(folder)!r} to watch.")
    need_pillow()
    views = make_views(arguments.tta, classifier.spec)

    def load(file: BinaryIO) -> UInt8Array:
        return load_for_model(file, classifier.spec, arguments.resize_mode)

    every = _LOOK_SECONDS if arguments.every is None else arguments.every
    in_file = arguments.output is not None
    path = Path(arguments.output) if in_file else folder / _state_name(classifier)
    model = identify(classifier.path)
    with Ledger(path, with_answers=in_file) as ledger:
        for arrival in Watch(folder, ledger, load, _note, every).arrivals():
            answer: output.Answer
            if isinstance(arrival.content, str):
                answer = arrival.content
                print(f"vitsd-predict: error: {answer}", file=sys.stderr)
            else:
                row = classifier.probabilities(arrival.content[None], views)[0]
                answer = classifier.top(row, arguments.top_k)
            line = {"time": _now(), **output.content(answer)}
            model, before = identify(classifier.path), model
            if model != before:
                _note(
                    f"{printable(classifier.path)} was replaced or removed; the answers are still "
                    "those of the model that was loaded: start again for the new one"
                )
            with hold_signals():
                if not in_file:
                    _show(arrival.name, answer, line, arguments.json)
                ledger.add(arrival.name, arrival.stamp, line)


def _show(name: str, answer: output.Answer, line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.write(json.dumps({"image": name, **line}) + "\n")
    else:
        output.show_text(name, answer)


def _state_name(classifier: Classifier) -> str:
    """Of the file that says what was answered; another one for another model."""
    digest = hashlib.sha256(classifier.spec.to_json().encode()).hexdigest()
    return f".vitsd-watch-{digest[:12]}.jsonl"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
