r"""How well do models learn a few photos of one's own, by the way that they are trained?

    python tools/few_photos.py photos/ --classes 2 8 --images 10 20 --rounds 3 \
        --way "--pretrained vit-edge-cifar100" --way "--preset vit-edge --epochs 100"

Each round draws classes, and images of each to train on; the others, at most 50 of a class, are the
test. Every way (options of `vitsd-train`) gets the same draws.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vitsd.cli.train import main as vitsd_train
from vitsd_runtime.cli import app
from vitsd_runtime.cli.options import positive_int
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.files import write_text
from vitsd_runtime.system.text import table

_MOST_TESTED = 50
_FEWEST_TESTED = 5
_WAYS = (
    "--pretrained vit-edge-cifar100",
    "--pretrained vit-edge-cifar100 --freeze-backbone",
    "--preset vit-edge --epochs 100",
)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="few_photos.py", description="Ways to learn few photos.")
    parser.add_argument("photos", metavar="DIR", type=Path, help="a folder of class folders")
    parser.add_argument("--classes", type=positive_int, nargs="+", default=[2, 8], help="how many")
    parser.add_argument(
        "--images", type=positive_int, nargs="+", default=[20], help="of each class"
    )
    parser.add_argument("--way", action="append", help="options of vitsd-train; several times")
    parser.add_argument(
        "--rounds", type=positive_int, default=3, help="draws of each kind (default: 3)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> None:
    photos = {
        folder.name: sorted(path for path in folder.iterdir() if path.is_file())
        for folder in sorted(arguments.photos.iterdir())
        if folder.is_dir()
    }
    kinds = [(count, images) for count in arguments.classes for images in arguments.images]
    ways = arguments.way or _WAYS
    rows = []
    for classes, images in tqdm(kinds, unit="kind"):
        results: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for seed in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as scratch:
                draw(photos, classes, images, seed, Path(scratch))
                for way in ways:
                    results[way].append(train(way, seed, Path(scratch)))
        rows += [_row(classes, images, way, found) for way, found in results.items()]
    if arguments.json:
        write_text(arguments.json, json.dumps(rows, indent=1) + "\n")
    headers = ["classes", "images of each", "way", "top-1 %", "standard error", "seconds"]
    print(table([list(row.values())[: len(headers)] for row in rows], headers))


def draw(photos: dict[str, list[Path]], classes: int, images: int, seed: int, folder: Path) -> None:
    """Copy the photos of one round to ``train/CLASS`` and ``test/CLASS`` of a folder.

    Args:
        photos: files by class.
        classes: how many to draw.
        images: of each, to train on.
        seed: of the draw.
        folder: where they go.

    Raises:
        UsageError: there are not as many classes with as many photos.
    """
    random = np.random.default_rng((seed, classes, images))
    enough = [name for name, files in photos.items() if len(files) >= images + _FEWEST_TESTED]
    if len(enough) < classes:
        raise UsageError(
            f"{len(enough)} classes have {images + _FEWEST_TESTED} photos, not {classes}."
        )
    for name in random.choice(enough, classes, replace=False):
        files = [photos[name][i] for i in random.permutation(len(photos[name]))]
        splits = {"train": files[:images], "test": files[images : images + _MOST_TESTED]}
        for split, chosen in splits.items():
            (folder / "photos" / split / name).mkdir(parents=True)
            for path in chosen:
                shutil.copyfile(path, folder / "photos" / split / name / path.name)


def train(way: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train in one way on what was drawn; returns the results and the seconds that it took."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    words = ["--data", folder / "photos", "--output", run, "--seed", seed, *shlex.split(way)]
    start = time.perf_counter()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = vitsd_train([str(word) for word in words])
    if code:
        raise VitsdError(f"vitsd-train {way} ended with {code}: {said.getvalue()[-500:]}")
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    return {**results, "seconds": time.perf_counter() - start}


def _row(classes: int, images: int, way: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    top1 = [100 * result["top1"] for result in found]
    return {
        "classes": classes,
        "images": images,
        "way": way,
        "top1": round(float(np.mean(top1)), 1),
        "standard_error": round(float(np.std(top1) / max(1, len(top1) - 1) ** 0.5), 1),
        "seconds": round(float(np.median([result["seconds"] for result in found]))),
        "rounds": top1,
    }


if __name__ == "__main__":
    sys.exit(main())
