"""Types and options that several commands share."""

from __future__ import annotations

import argparse

from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import ModelSpec

RENAMED = {"--threads": "--num-threads"}
"""Options of commands that load exported models, by the names they once had."""


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1; got {text!r}")
    return number


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0; got {text!r}")
    return number


def positive_ints(text: str) -> list[int]:
    """An argparse type: ``1,2,4``."""
    return [positive_int(part) for part in text.split(",")]


def flag_of(name: str) -> str:
    """``--image-size`` of ``image_size``."""
    return f"--{name.replace('_', '-')}"


def add_verify_option(parser: argparse.ArgumentParser) -> None:
    """``--verify``, on by default, and ``--no-verify``."""
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="check the model's SHA-256 (default)",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that loads an exported model."""
    parser.add_argument("--spec", metavar="FILE", help="JSON spec for a model that carries none")
    add_verify_option(parser)


def read_spec_option(path: str | None) -> ModelSpec | None:
    """The value of ``--spec``.

    Raises:
        UsageError: the file can't be read.
        VitsdError: it holds no spec.
    """
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return ModelSpec.from_json(file.read())
    except OSError as error:
        raise UsageError(f"The spec {path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The spec {path} is not a text file.") from error
