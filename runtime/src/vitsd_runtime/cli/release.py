"""``vitsd-release``: sign models for many devices, and offer them from a static host."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitsd_runtime.cli import actions
from vitsd_runtime.cli.actions import Action, say
from vitsd_runtime.cli.options import type_of
from vitsd_runtime.release import keys, publish
from vitsd_runtime.release.statements import MAX_VERSION, Index, Release, to_dict
from vitsd_runtime.system.text import printable
from vitsd_runtime.validation import Option

_VERSION = type_of(Option("a version", int, at_least=1, at_most=MAX_VERSION))
_DAYS = type_of(Option("days", float, above=0, at_most=3650))
_PERCENT = type_of(Option("a share of the devices", float, at_least=0, at_most=100))


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return actions.build_parser("vitsd-release", _DESCRIPTION, ACTIONS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return actions.run("vitsd-release", _DESCRIPTION, ACTIONS, argv)


def _add_keygen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the private key; the public one is KEY.pub")


def _keygen(arguments: argparse.Namespace) -> None:
    public = keys.generate(arguments.key)
    name = keys.key_id(keys.read_public([public])[0])
    say(
        arguments,
        {"private": arguments.key, "public": str(public), "id": name},
        f"{printable(arguments.key)} signs: keep it secret, and a copy of it. {printable(public)} "
        f"goes to the devices. Its name is {name}.",
    )


def _add_sign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help=".tflite or .onnx file; of several, a device takes the first that runs there",
    )
    _add_key(parser)
    parser.add_argument("--channel", required=True, metavar="NAME", help="the devices' channel")
    _add_version_number(parser, "release")
    parser.add_argument(
        "--needs-runtime",
        default="0",
        metavar="VERSION",
        help="the lowest version of vitsd-runtime that may run it (default: any)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"default: CHANNEL-VERSION{publish.ENDING} beside the first model",
    )


def _sign(arguments: argparse.Namespace) -> None:
    sealed = publish.sign_release(
        arguments.models,
        arguments.channel,
        arguments.release_version,
        keys.read_private(arguments.key),
        arguments.needs_runtime,
    )
    name = f"{arguments.channel}-{arguments.release_version}{publish.ENDING}"
    path = arguments.output or Path(arguments.models[0]).parent / name
    publish.write_statement(path, sealed)
    say(arguments, {"release": str(path)}, f"{printable(path)} is signed.")


def _add_delegate(parser: argparse.ArgumentParser) -> None:
    _add_key(parser, "the private key that the devices know")
    _add_version_number(parser, "keys")
    for what in ("release", "index"):
        parser.add_argument(
            f"--{what}-key",
            action="append",
            required=True,
            metavar="PUBLIC_KEY",
            help=f"may sign the {what} from now on; may be repeated",
        )
    _add_days(parser, 365)
    parser.add_argument("--output", default="keys.json", metavar="FILE", help="default: keys.json")


def _delegate(arguments: argparse.Namespace) -> None:
    sealed = publish.sign_keys(
        arguments.keys_version,
        keys.read_public(arguments.release_key),
        keys.read_public(arguments.index_key),
        arguments.days,
        keys.read_private(arguments.key),
    )
    publish.write_statement(arguments.output, sealed)
    say(
        arguments,
        {"keys": arguments.output},
        f"{printable(arguments.output)} is signed: vitsd-release index --keys takes it along.",
    )


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="that a static host serves")
    parser.add_argument(
        "releases",
        nargs="*",
        metavar="RELEASE",
        help=f"signed {publish.ENDING} files, their models beside them (default: those of the "
        "index in DIR)",
    )
    _add_key(parser)
    parser.add_argument(
        "--rollout",
        type=_PERCENT,
        metavar="PERCENT",
        help="of the devices that are to take the newest release; 0 halts it (default: as in the "
        "index in DIR; 100 for a new release)",
    )
    _add_days(parser, 30)
    parser.add_argument(
        "--serial", type=_VERSION, metavar="N", help="default: one more than that in DIR"
    )
    parser.add_argument("--keys", metavar="FILE", help="of vitsd-release delegate")
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove the files of releases that neither this index offers nor the one before",
    )
    _add_trusted(parser, required=False)


def _index(arguments: argparse.Namespace) -> None:
    publication = publish.Publication(
        rollout=arguments.rollout,
        days=arguments.days,
        serial=arguments.serial,
        trusted=keys.read_public(arguments.trusted or ()),
        keys=arguments.keys,
        prune=arguments.prune,
    )
    found = publish.publish(
        arguments.folder, arguments.releases, keys.read_private(arguments.key), publication
    )
    say(arguments, _index_dict(found), _index_text(found))


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, metavar="RELEASE|DIR", help="a signed release, or a host's folder"
    )
    _add_trusted(parser, required=True)


def _verify(arguments: argparse.Namespace) -> None:
    trusted = keys.read_public(arguments.trusted)
    if arguments.path.is_dir():
        index = publish.verify_folder(arguments.path, trusted)
        say(arguments, _index_dict(index), _index_text(index))
    else:
        release = publish.verify_release(arguments.path, trusted)
        say(arguments, to_dict(release), _release_text(release))


def _add_key(
    parser: argparse.ArgumentParser, help: str = "the private key, of vitsd-release keygen"
) -> None:
    parser.add_argument("--key", required=True, metavar="FILE", help=help)


def _add_trusted(parser: argparse.ArgumentParser, required: bool) -> None:
    default = "" if required else " (default: that of the private one)"
    parser.add_argument(
        "--trusted",
        action="append",
        required=required,
        metavar="PUBLIC_KEY",
        help=f"a public key that the devices know; may be repeated{default}",
    )


def _add_version_number(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        f"--{what}-version",
        type=_VERSION,
        required=True,
        metavar="N",
        help="a whole number, above all earlier ones",
    )


def _add_days(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--days",
        type=_DAYS,
        default=default,
        metavar="N",
        help=f"until it expires (default: {default})",
    )


def _index_dict(index: Index) -> dict[str, Any]:
    return {
        "channel": index.channel,
        "serial": index.serial,
        "expires": index.expires,
        "offers": [{"rollout": o.rollout, **to_dict(o.release)} for o in index.offers],
    }


def _index_text(index: Index) -> str:
    day = time.strftime("%Y-%m-%d", time.gmtime(index.expires))
    offers = (f"  to {o.rollout:g} %: {_release_text(o.release)}" for o in index.offers)
    return "\n".join([f"{index.channel}, serial {index.serial}, good until {day}:", *offers])


def _release_text(release: Release) -> str:
    files = ", ".join(f"{printable(f.name)} ({f.size:,} bytes)" for f in release.files)
    return f"{release.channel} version {release.version}: {files}"


_DESCRIPTION = (
    "Sign versions of a model for many devices, and lay them out for a static host, where "
    "vitsd-agent\nfinds them."
)
ACTIONS = {
    "keygen": Action("Make a pair of Ed25519 keys.", _add_keygen, _keygen),
    "sign": Action("Sign a version of a model.", _add_sign, _sign),
    "index": Action("Write a host's folder: files and a signed index.", _add_index, _index),
    "verify": Action("Check a release or a host's folder as a device would.", _add_verify, _verify),
    "delegate": Action(
        "Say which keys may sign, with the key that devices know.", _add_delegate, _delegate
    ),
}

if __name__ == "__main__":
    sys.exit(main())
