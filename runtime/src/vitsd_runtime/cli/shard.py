"""``vitsd-predict --shard``: one machine's share of a job, in a file that is whole or not there."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.cli import output
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.reading import DEADLY, MAX_TRIES
from vitsd_runtime.live.answers import Answers
from vitsd_runtime.system.files import open_regular, write_text
from vitsd_runtime.system.json_files import read_json
from vitsd_runtime.system.signals import hold_signals
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import UInt8Array

Source = Union[str, Path]
Load = Callable[[Source], UInt8Array]
"""Reads an image; raises VitsdError if that can't be."""
AnswerAll = Callable[[Sequence[Source], Load], Iterator[tuple[Source, output.Answer]]]

_MAX_RECORD = 2**20
"""Bytes."""


class _ShardAnswers(Answers):
    """The answers of a shard, as ``--json`` prints them."""

    def __init__(self, path: Path) -> None:
        self.known: set[str] = set()
        """Names of the images that were answered."""
        self.failed = 0
        """How many of them have an error instead."""
        super().__init__(path)

    def __exit__(self, *error: Any) -> None:
        """Close the files; without an answer in them they go."""
        if self._is_open and not self.known:
            self.discard()
        super().__exit__(*error)

    def learn(self, path: Path) -> None:
        """Take the answers of another file for known."""
        with self._explained():
            file = open_regular(path)
            with open(file, "rb"):
                self._read(file)

    def copy(self, path: Path) -> None:
        """Begin with the lines of another file."""
        with (
            self._explained(),
            open(path, "rb") as source,
            open(self._file, "wb", closefd=False) as target,
        ):
            shutil.copyfileobj(source, target)

    def _take(self, name: str, content: Mapping[str, Any]) -> None:
        self.failed += "error" in content or not content["predictions"]
        self.known.add(name)


def check(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Check what belongs to ``shard``.

    Args:
        arguments: of the command.
        names: of the images.

    Raises:
        UsageError: something does not.
    """
    if arguments.output is None:
        raise UsageError("`shard` needs a file for its answers: name it with `output`.")
    path = output.answers_path(arguments.output)
    if path.exists() and not path.is_file():
        raise UsageError(f"{printable(path)} is no regular file: name one, new or old.")
    if arguments.csv:
        raise UsageError(
            "`shard` writes JSON lines, which can be put one behind the other: leave out `csv`."
        )
    if "-" in names:
        raise UsageError("Standard input can't be shared: name files and folders with `shard`.")


def answer_shard(
    classifier: Classifier,
    sources: Sequence[Source],
    arguments: argparse.Namespace,
    load: Load,
    answer_all: AnswerAll,
) -> None:
    """Answer what is not answered yet, and say what was done.

    Until all is done, answers are in ``FILE.part``; an image that can't be read has an error for
    an answer.

    Args:
        classifier: the model.
        sources: the images of this shard.
        arguments: of the command.
        load: reads an image.
        answer_all: answers images that it reads with the function that it gets.

    Raises:
        UsageError: the file holds something else, or the answers of another job.
        VitsdError: another program does the same work, or the model fails.
    """
    path = Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {str(source): source for source in sources}
    with _ShardAnswers(path.with_name(f"{path.name}.part")) as answers:
        whole = path.exists()
        _check_job(path, _describe_job(classifier, arguments), whole or bool(answers.known))
        resumed = bool(answers.known)
        if whole and not resumed:
            answers.learn(path)
        before = len(answers.known & named.keys())
        missing = [source for name, source in named.items() if name not in answers.known]
        if missing or not whole:
            if whole and not resumed:
                answers.copy(path)
            _answer(answers, missing, load, answer_all)
            answers.finish(path)
        else:
            answers.discard()
    _report(arguments, len(named), before, answers.failed)


def _answer(
    answers: _ShardAnswers, sources: Sequence[Source], load: Load, answer_all: AnswerAll
) -> None:
    def load_guarded(source: Source) -> UInt8Array:
        if answers.begin(str(source)) >= MAX_TRIES:
            raise VitsdError(f"{printable(source)} is passed over: {DEADLY}")
        try:
            return load(source)
        except UsageError as error:  # of a single image it would be misuse
            raise VitsdError(str(error)) from error
        finally:
            answers.end()

    for source, answer in answer_all(sources, load_guarded):
        if isinstance(answer, str):
            print(f"vitsd-predict: error: {answer}", file=sys.stderr)
        with hold_signals():
            answers.append(str(source), output.content(answer))


def _describe_job(classifier: Classifier, arguments: argparse.Namespace) -> dict[str, Any]:
    """What answers depend on; those of another job are not continued."""
    options = {name: getattr(arguments, name) for name in ("top_k", "tta", "resize_mode")}
    return {"shard": str(arguments.shard), **classifier.fingerprint(), **options}


def _check_job(path: Path, job: Mapping[str, Any], begun: bool) -> None:
    """Compare with what was noted when the job began; note it, if it begins now."""
    record = path.with_name(f"{path.name}.job")
    if not begun:
        write_text(record, json.dumps(job) + "\n")
        return
    noted = None
    with contextlib.suppress(UsageError):
        noted = read_json(record, "the record of a shard", _MAX_RECORD)
    if noted == job:
        return
    if not isinstance(noted, dict):
        raise UsageError(
            f"{printable(path)} is there, but not {printable(record.name)}, which says what its "
            "answers are: name another file with `output`, or remove it."
        )
    other = next((name for name in job if noted.get(name) != job[name]), "version")
    raise UsageError(
        f"{printable(path)} holds answers with another {other.replace('_', ' ')}: name another "
        f"file with `output`, or remove it and {printable(path.name)}.part."
    )


def _report(arguments: argparse.Namespace, images: int, before: int, failed: int) -> None:
    shard, file = arguments.shard, arguments.output
    if arguments.json:
        counts = {"images": images, "answered_before": before, "failed": failed}
        output.write(json.dumps({"shard": str(shard), **counts, "output": file}) + "\n")
        return
    done = f"{images - before:,} of {images:,} images answered"
    if not images:
        done = "no image is in this share"
    elif before == images:
        done = f"all {images:,} images were answered before"
    elif before:
        done += ", the others before"
    errors = f"; {failed:,} can't be read, their answers are errors" if failed else ""
    print(f"Shard {shard}: {done}{errors}: {printable(file)}")
