"""Options that several commands share, and options made from dataclasses."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vitsd.data.dataset import ALL, SPLITS
from vitsd.data.sources import BUILT_IN
from vitsd_runtime.cli.options import flag_of, positive_int, type_of
from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import MAX_SIDE
from vitsd_runtime.system.files import check_writable
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike
from vitsd_runtime.validation import Option, check_value_range, options

SIDE = Option("of images, in pixels", int, at_least=1, at_most=MAX_SIDE)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that evaluates models on labeled images."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help=f"{', '.join(BUILT_IN)}, a folder, or an .npz file",
    )
    parser.add_argument(
        "--split",
        choices=(*SPLITS, ALL),
        default="test",
        help=f"default: test; {ALL}: all images, for data that are new to the model",
    )
    parser.add_argument("--limit", type=positive_int, metavar="N", help="use at most N images")


def add_field_options(group: Any, cls: type, left_out: Collection[str] = ()) -> None:
    """An option for every declared field of a dataclass; None where it is not given.

    Args:
        group: a parser or a group of one.
        cls: its fields are declared with :func:`vitsd_runtime.validation.option`.
        left_out: names of fields that get no option.
    """
    for name, declared in options(cls):
        if name in left_out:
            continue
        flag, help_text = flag_of(name), declared.help.replace("%", "%%")
        if declared.type is bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(flag, action=action, default=None, help=help_text)
        elif declared.type is str:
            group.add_argument(flag, choices=declared.choices, help=help_text)
        else:
            convert = _units if declared.type is tuple else type_of(declared)
            group.add_argument(flag, type=convert, metavar=_UNITS[declared.type], help=help_text)


def value_range(text: str) -> list[float]:
    """An argparse type: ``0,4095``."""
    try:
        return list(check_value_range(text.split(",")))
    except UsageError as error:
        raise argparse.ArgumentTypeError(
            f"must be two rising numbers, as 0,4095; got {text!r:.80}"
        ) from error


def check_picture(path: PathLike) -> None:
    """Before long work, refuse a name for a picture that it can't be written to at the end.

    Raises:
        UsageError: it does not end in .png, or is that of a folder.
        PermissionError: the folder can't be written to.
    """
    if Path(path).suffix.lower() != ".png":
        raise UsageError(
            f"The picture is a PNG file: let its name end in .png; got {printable(path)}."
        )
    check_writable(path)


def _units(text: str) -> list[int]:
    return [positive_int(part) for part in text.split(",") if part.strip()]


_UNITS = {int: "N", float: "X", tuple: "N,N"}
"""What stands for a field's type in the help."""
