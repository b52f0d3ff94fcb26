"""``vitsd-data``: prepare datasets for training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from vitsd.cli.options import SIDE, value_range
from vitsd_runtime.cli import app
from vitsd_runtime.cli.options import type_of
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import RESIZE_MODES
from vitsd_runtime.validation import REDUCING_GAP


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-data",
        description="pack: decode the images of a folder once, into files that vitsd-train --data "
        "reads while it trains, so that they need not fit into memory.",
    )
    parser.add_argument("action", choices=("pack",), help="what to do")
    parser.add_argument(
        "folder", metavar="FOLDER", help="of class folders, with or without train/, val/, test/"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a folder that does not exist yet"
    )
    parser.add_argument(
        "--input-size",
        required=True,
        type=type_of(SIDE),
        metavar="N",
        help="side that images are brought to; vitsd-train takes that of its preset by default",
    )
    parser.add_argument(
        "--resize-mode", choices=RESIZE_MODES, default="stretch", help="how (default: stretch)"
    )
    parser.add_argument(
        "--value-range",
        type=value_range,
        metavar="LOW,HIGH",
        help="the values in the images that become black and white (default: 0,255 or, for 16 "
        "bits, 0,65535)",
    )
    parser.add_argument(
        "--reducing-gap",
        type=type_of(REDUCING_GAP),
        metavar="X",
        help=f"{REDUCING_GAP.help}, as 2 (default: in full)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> int:
    from vitsd.data.packed import pack

    side = arguments.input_size
    counts = pack(
        arguments.folder,
        arguments.output,
        (side, side),
        arguments.resize_mode,
        arguments.value_range,
        arguments.reducing_gap,
    )
    if arguments.json:
        print(json.dumps({"output": arguments.output, "images": counts}))
        return 0
    described = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"{printable(arguments.output)}: {described} images of {side}x{side} pixels")
    print(f"Train on them: vitsd-train --data {printable(arguments.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
