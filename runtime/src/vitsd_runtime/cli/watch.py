"""``vitsd-predict --watch``: answers to the images of a folder as they arrive, each once."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.cli import output
from vitsd_runtime.errors import UsageError
from vitsd_runtime.images.decoding import need_pillow
from vitsd_runtime.images.loading import load_for_model
from vitsd_runtime.images.tta import make_views
from vitsd_runtime.live.folder import Watch
from vitsd_runtime.live.ledger import Ledger
from vitsd_runtime.system.files import identify
from vitsd_runtime.system.signals import hold_signals
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import UInt8Array

_LOOK_SECONDS = 1.0
"""Between two looks into a folder."""


def watch_folder(classifier: Classifier, arguments: argparse.Namespace) -> None:
    """Classify the images of a folder, and new ones, for ever.

    Raises:
        UsageError: there is no such folder, or the answers can't go where they are to go.
        VitsdError: Pillow is missing, or the model fails.
    """
    folder = Path(arguments.watch)
    if not folder.is_dir():
        raise UsageError(f"There is no folder {printable(folder)!r} to watch.")
    in_file = arguments.output is not None
    path = output.answers_path(arguments.output) if in_file else folder / _state_name(classifier)
    need_pillow()
    views = make_views(arguments.tta, classifier.spec)

    def load(file: BinaryIO) -> UInt8Array:
        return load_for_model(file, classifier.spec, arguments.resize_mode)

    every = _LOOK_SECONDS if arguments.every is None else arguments.every
    model = identify(classifier.path)
    with Ledger(path, with_answers=in_file) as ledger:
        for arrival in Watch(folder, ledger, load, output.note, every).arrivals():
            answer: output.Answer
            if isinstance(arrival.content, str):
                answer = arrival.content
                print(f"vitsd-predict: error: {answer}", file=sys.stderr)
            else:
                row = classifier.probabilities(arrival.content[None], views)[0]
                answer = classifier.top(row, arguments.top_k)
            line = {"time": output.now(), **output.content(answer)}
            model, before = identify(classifier.path), model
            if model != before:
                output.note(
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
