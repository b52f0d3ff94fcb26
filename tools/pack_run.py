"""Bring a trained model from another machine in small files.

    python tools/pack_run.py runs/small out/   # there: out/small.tar.00, out/small.tar.01 ...
    cat small.tar.* | tar x                    # here: the folder small/

The archive holds what a run leaves for people (metrics, curves, results) and the model with its
weights rounded to float16: half the size. Checkpoints stay where they are.
"""

from __future__ import annotations

import argparse
import glob
import io
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vitsd.backend import load_keras
from vitsd.config import VitConfig
from vitsd.training.run import RunFolder
from vitsd_runtime.cli import app
from vitsd_runtime.cli.options import positive_int
from vitsd_runtime.errors import UsageError

MEGABYTE = 10**6


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="pack_run", description="Pack a finished training run into files of limited size."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="its folder")
    parser.add_argument("output", type=Path, metavar="FOLDER", help="for the files")
    parser.add_argument(
        "--megabytes", type=positive_int, default=15, help="size of each file at most (default: 15)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> None:
    load_keras()
    folder = RunFolder(arguments.run)
    if not folder.is_finished:
        raise UsageError(f"{folder} holds no finished run.")
    name = folder.path.resolve().name
    content = _archive(folder, name)
    size = arguments.megabytes * MEGABYTE
    arguments.output.mkdir(parents=True, exist_ok=True)
    for old in arguments.output.glob(f"{glob.escape(name)}.tar.[0-9][0-9]*"):
        old.unlink()  # of a larger run, `cat` would take them too
    for number, start in enumerate(range(0, len(content), size)):
        part = arguments.output / f"{name}.tar.{number:02d}"
        part.write_bytes(content[start : start + size])
        print(part)


def _archive(folder: RunFolder, name: str) -> bytes:
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(fileobj=content, mode="w") as tar:
        model = Path(scratch) / folder.model.name
        save_half(folder.model, model)
        pictures = (folder.curves, folder.confusion)
        for file in (folder.run_file, folder.metrics, folder.results, *pictures, model):
            if file.exists():  # many classes have no picture of their confusion
                tar.add(file, f"{name}/{file.name}")
    return content.getvalue()


def save_half(source: Path, target: Path) -> None:
    """Copy a ``.keras`` file with weights rounded to float16."""
    from vitsd.hub.saving import load_model, save_model
    from vitsd.model.vit import build_vit

    model, spec = load_model(source)
    half = build_vit(
        VitConfig.from_spec(spec), mean=spec.mean, variance=spec.variance, dtype="float16"
    )
    half.set_weights(model.get_weights())
    save_model(half, target, spec)


if __name__ == "__main__":
    sys.exit(main())
