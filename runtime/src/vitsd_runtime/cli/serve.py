"""``vitsd-serve``: answer over HTTP."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from vitsd_runtime.cli import app, options
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.models.catalog import BUNDLED, bundled_model
from vitsd_runtime.serving.settings import Settings
from vitsd_runtime.system.text import printable, why
from vitsd_runtime.validation import options as declared_options

_TOKEN = "VITSD_TOKEN"
_MAX_TOKEN, _MIN_TOKEN = 4096, 16
_METAVARS = {"max_body": "MIB", "timeout": "SECONDS", "min_confidence": "P"}
_UNSET = {
    "workers": "as many as the cores allow",
    "num_threads": "measured",
    "backend": "the first that is installed",
    "min_confidence": "the model's own",
}
"""What happens where an option is not given that has no value of its own."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-serve",
        description="Classify images over HTTP: POST /v1/predict, the Open Inference Protocol "
        "under /v2, /metrics for Prometheus, and a page for people at /. A model's file may be "
        "replaced while it is served: the new one takes over if it is good.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="[NAME[@VERSION]=]MODEL",
        help=".tflite or .onnx files, SavedModel folders, which are programs that it runs, or "
        f"{options.NAMES}; the first is the default (default: {BUNDLED})",
    )
    parser.add_argument(
        "--host",
        default=Settings.host,
        help="address to listen at; 0.0.0.0 for all of the network (default: %(default)s)",
    )
    for name, declared in declared_options(Settings):
        default = getattr(Settings, name)
        parser.add_argument(
            options.flag_of(name),
            type=str if declared.choices else options.type_of(declared),
            choices=declared.choices,
            default=default,
            metavar=None if declared.choices else _METAVARS.get(name, "N"),
            help=f"{declared.help} (default: {_UNSET.get(name) or format(default, '.12g')})",
        )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"holds the token that clients have to send (default: that in {_TOKEN} in the "
        "environment, if it is there)",
    )
    parser.add_argument("--access-log", action="store_true", help="a line for every request")
    options.add_check_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-runtime")


def _main(arguments: argparse.Namespace) -> None:
    names = {field.name for field in dataclasses.fields(Settings)} & set(vars(arguments))
    values: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    settings = Settings(**values, token=_read_token(arguments.token_file))
    try:
        from vitsd_runtime.serving.models import Source
        from vitsd_runtime.serving.server import listen, serve
    except ImportError as error:
        raise VitsdError(
            f'Serving needs more packages: pip install "vitsd-runtime[serve]" ({printable(error)}).'
        ) from error
    words = arguments.models or [str(bundled_model())]
    sources = [Source.parse(word) for word in words]
    with listen(settings) as listener:
        serve(sources, settings, listener)


def _read_token(path: str | None) -> str | None:
    """The token of a file or of the environment.

    Raises:
        UsageError: the file can't be read, or what it holds is no good token.
    """
    if path is None:
        token, where = os.environ.get(_TOKEN), _TOKEN
    else:
        where = printable(path)
        try:
            with open(path, encoding="ascii") as file:
                token = file.read(_MAX_TOKEN + 1).strip()
        except (OSError, ValueError) as error:
            raise UsageError(f"{where} can't be read: {why(error)}.") from error
    if token is None:
        return None
    if not (_MIN_TOKEN <= len(token) <= _MAX_TOKEN and token.isascii() and token.isprintable()):
        raise UsageError(
            f"{where} must hold a token of {_MIN_TOKEN} to {_MAX_TOKEN:,} plain characters, such "
            "as `openssl rand -hex 32` makes."
        )
    return token


if __name__ == "__main__":
    sys.exit(main())
