"""``vitsd-predict`` on what comes by and by: which of its options mean that, and who does it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.cli import options
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import SUFFIXES
from vitsd_runtime.live.cameras import is_video_file
from vitsd_runtime.system.signals import accept_signal
from vitsd_runtime.system.text import printable
from vitsd_runtime.validation import Option

_EVERY = Option("seconds", float, at_least=0, at_most=86_400)


def add_options(parser: argparse.ArgumentParser, modes: Any) -> None:
    """The options of what comes by and by; those that exclude other modes go to ``modes``."""
    modes.add_argument(
        "--camera",
        nargs="?",
        const="0",
        metavar="N|URL|FILE",
        help="classify what a camera shows (default: 0), a stream, or every frame of a video file",
    )
    modes.add_argument(
        "--watch", metavar="DIR", help="classify the images of a folder, and new ones as they come"
    )
    parser.add_argument(
        "--every",
        type=options.type_of(_EVERY),
        metavar="SECONDS",
        help="with --camera: between two answers (default: as many as can be); with --watch: "
        "between two looks into the folder (default: 1)",
    )


def is_asked_for(arguments: argparse.Namespace) -> bool:
    """Whether the command is to classify a camera's images or those of a watched folder.

    Raises:
        UsageError: options that do not belong together.
    """
    watch, camera = arguments.watch is not None, arguments.camera is not None
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
    # Imported here: photos that are named are answered sooner without them.
    from vitsd_runtime.cli.camera import follow_camera, play_video
    from vitsd_runtime.cli.watch import watch_folder

    if arguments.watch is not None:
        with _until_a_signal():
            watch_folder(classifier, arguments)
    elif is_video_file(arguments.camera):
        play_video(classifier, arguments)
    else:
        with _until_a_signal():
            follow_camera(classifier, arguments)


@contextlib.contextmanager
def _until_a_signal() -> Iterator[None]:
    """A signal is how what has no end is ended; it is no failure."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        accept_signal()
