"""Commands of several actions, as ``vitsd-agent pull``: each with options of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError


class Action(NamedTuple):
    """One action of a command."""

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    main: app.Main


def build_parser(
    prog: str, description: str, actions: Mapping[str, Action]
) -> argparse.ArgumentParser:
    """A parser of the action alone; its help is that of all of them."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="\n\n".join(action_parser(prog, name, actions).format_help() for name in actions),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=list(actions), help="see below; it comes first")
    return parser


def run(
    prog: str, description: str, actions: Mapping[str, Action], argv: Sequence[str] | None
) -> int:
    """:func:`app.run` for the action that the first word names; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in actions:
        parser = action_parser(prog, words[0], actions)
        main = actions[words[0]].main
        return app.run(main, parser, words[1:], distribution="vitsd-runtime")
    parser = build_parser(prog, description, actions)
    return app.run(_misplaced, parser, words, distribution="vitsd-runtime")


def action_parser(prog: str, name: str, actions: Mapping[str, Action]) -> argparse.ArgumentParser:
    """The options of one action."""
    action = actions[name]
    parser = argparse.ArgumentParser(prog=f"{prog} {name}", description=action.help)
    action.add_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def say(arguments: argparse.Namespace, content: Mapping[str, Any], text: str) -> None:
    """Print what an action has done: as JSON with ``--json``, else for people."""
    print(json.dumps(content, indent=1) if arguments.json else text)


def _misplaced(arguments: argparse.Namespace) -> None:
    raise UsageError(f"Begin with the action: {arguments.action}.")
