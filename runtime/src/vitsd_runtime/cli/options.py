"""Types and options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from vitsd_runtime.classifier import BACKEND, NUM_THREADS
from vitsd_runtime.errors import UsageError
from vitsd_runtime.models.catalog import BUNDLED, MODELS, bundled_model, find_model
from vitsd_runtime.spec import MAX_JSON_BYTES, ModelSpec
from vitsd_runtime.system.json_files import read_json
from vitsd_runtime.validation import Option

RENAMED = {"--threads": "--num-threads"}
"""Options of commands that load exported models, by the names they once had."""


_COUNT = Option("a number of things", int, at_least=1, at_most=10**9)


def type_of(declared: Option) -> Callable[[str], Any]:
    """The argparse type of an option of one number."""

    def convert(text: str) -> Any:
        try:
            return declared.parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def list_of(declared: Option) -> Callable[[str], list[Any]]:
    """An argparse type: several values of an option, as in ``1,2,4``."""
    convert = type_of(declared)
    return lambda text: [convert(part) for part in text.split(",")]


positive_int = type_of(_COUNT)
"""An argparse type: how many of something."""
positive_number = type_of(Option("an amount of something", float, above=0, at_most=10**9))
"""An argparse type: how much of something."""
random_seed = type_of(Option("of random numbers", int, at_least=0, at_most=2**32 - 1))
"""An argparse type."""


NAMES = f"one that comes with the runtime ({', '.join(MODELS)})"
"""For the help of what takes a model."""


def flag_of(name: str) -> str:
    """``--image-size`` of ``image_size``."""
    return f"--{name.replace('_', '-')}"


def add_model_argument(parser: argparse.ArgumentParser, kinds: str) -> None:
    """MODEL, by default the bundled one; ``kinds`` says in the help what it may be."""
    parser.add_argument(
        "model",
        nargs="?",
        default=bundled_model(),
        type=find_model,
        metavar="MODEL",
        help=f"{kinds}, or {NAMES} (default: {BUNDLED})",
    )


def add_num_threads_option(parser: argparse.ArgumentParser) -> None:
    """``--num-threads``, of the engine."""
    parser.add_argument(
        "--num-threads",
        type=type_of(NUM_THREADS),
        metavar="N",
        help="engine threads (default: measured)",
    )


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """``--backend``, the engine."""
    parser.add_argument(
        "--backend",
        choices=BACKEND.choices,
        help=f"{BACKEND.help} (default: the first that is installed)",
    )


def add_verify_option(parser: argparse.ArgumentParser) -> None:
    """``--verify``, on by default, and ``--no-verify``."""
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="check the model's SHA-256 (default)",
    )


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """What is checked before a model is loaded."""
    add_verify_option(parser)
    parser.add_argument(
        "--allow-any-operation",
        action="store_true",
        help="also run models with operations that vitsd-export does not write; only for files "
        "that you trust",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that loads an exported model."""
    parser.add_argument("--spec", metavar="FILE", help="JSON spec for a model that carries none")
    add_check_options(parser)


def read_spec_option(path: str | None) -> ModelSpec | None:
    """The value of ``--spec``.

    Raises:
        UsageError: the file can't be read, or is no JSON.
        VitsdError: it holds no spec.
    """
    if path is None:
        return None
    return ModelSpec.from_dict(read_json(path, "a spec", MAX_JSON_BYTES))
