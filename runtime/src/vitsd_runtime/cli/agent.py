"""``vitsd-agent``: keep a device's model up to date with signed releases."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vitsd_runtime.cli import actions
from vitsd_runtime.cli.actions import Action, say
from vitsd_runtime.cli.options import type_of
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.release import agent, keys
from vitsd_runtime.release.download import Host, check_url, post
from vitsd_runtime.release.store import Store
from vitsd_runtime.system.text import printable, table
from vitsd_runtime.validation import Option

_log = logging.getLogger(__name__)
_SECONDS = type_of(Option("seconds", float, above=0, at_most=7 * 86400))


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return actions.build_parser("vitsd-agent", _DESCRIPTION, ACTIONS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    os.umask(os.umask(0o022) | 0o022)  # nobody else is to write what it makes
    return actions.run("vitsd-agent", _DESCRIPTION, ACTIONS, argv)


def _add_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="of the host's folder: http, https or file")
    _add_dir(parser)
    parser.add_argument(
        "--key",
        action="append",
        required=True,
        metavar="PUBLIC_KEY",
        help="a public key that has signed what is taken; may be repeated",
    )
    parser.add_argument(
        "--channel", metavar="NAME", help="take no other one (default: that of the first pull)"
    )
    parser.add_argument(
        "--check",
        metavar="COMMAND",
        help="run after the switch; if it fails, the version before is put to use again",
    )
    parser.add_argument(
        "--timeout",
        type=_SECONDS,
        default=3600.0,
        metavar="SECONDS",
        help="for all downloads (default: 3600)",
    )
    parser.add_argument(
        "--allow-downgrade", action="store_true", help="also take an older version than was in use"
    )
    parser.add_argument(
        "--retry", action="store_true", help="also take versions that failed here before"
    )
    parser.add_argument(
        "--device-id",
        metavar="NAME",
        help="by which the device takes part in roll-outs (default: a random one, which is kept)",
    )
    parser.add_argument(
        "--report",
        metavar="URL",
        help="send what `status --json` prints to this address at the end",
    )


def _pull(arguments: argparse.Namespace) -> None:
    host = Host(arguments.url, arguments.timeout)
    if arguments.report is not None:
        check_url(arguments.report, ("http", "https"))
    policy = agent.Policy(
        keys=keys.read_public(arguments.key),
        channel=arguments.channel,
        allow_downgrade=arguments.allow_downgrade,
        device_id=arguments.device_id,
        retry=arguments.retry,
        check=arguments.check,
    )
    with Store(arguments.dir) as store:
        try:
            done = agent.pull(host, store, policy)
        except (VitsdError, OSError):
            _report(arguments.report, store)
            raise
        _report(arguments.report, store)
    say(arguments, store.report(), done)


def _report(url: str | None, store: Store) -> None:
    if url is None:
        return
    try:
        post(url, json.dumps(store.report()).encode())
    except VitsdError as error:
        _log.warning("The report was not sent: %s", error)


def _rollback(arguments: argparse.Namespace) -> None:
    _check_dir(arguments.dir)
    with Store(arguments.dir) as store:
        done = agent.rollback(store)
    say(arguments, store.report(), done)


def _status(arguments: argparse.Namespace) -> None:
    _check_dir(arguments.dir)
    store = Store(arguments.dir)
    store.look()
    rows = [(name, "" if value is None else value) for name, value in store.report().items()]
    say(arguments, store.report(), table(rows, ("what", "now")))


def _add_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="of this agent; the model is DIR/current/model.tflite or .onnx",
    )


def _check_dir(folder: Path) -> None:
    if not (folder / "versions").is_dir():
        raise UsageError(f"{printable(folder)} is no folder of an agent.")


_DESCRIPTION = (
    "Bring a model on this device to the newest signed release, and back if that does not work "
    "here."
)
ACTIONS = {
    "pull": Action("Install what a host offers, if it is newer.", _add_pull, _pull),
    "rollback": Action("Put the version before to use again.", _add_dir, _rollback),
    "status": Action("Show what is in use, and what went wrong.", _add_dir, _status),
}

if __name__ == "__main__":
    sys.exit(main())
