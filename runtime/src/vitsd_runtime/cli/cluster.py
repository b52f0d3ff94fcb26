"""``vitsd-predict --engine``: many images on a cluster, into a table."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.cli import output
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import CLUSTER_ENGINES

if TYPE_CHECKING:
    from vitsd_runtime.batch.run import Summary


def add_options(parser: argparse.ArgumentParser, modes: Any) -> None:
    """The options of work on a cluster; those that exclude other modes go to ``modes``."""
    modes.add_argument(
        "--engine",
        choices=CLUSTER_ENGINES,
        help="answer many images on Ray or Spark, into Parquet files in the folder of --output; "
        "images may also be URLs, patterns and Parquet files",
    )
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="with --engine: of the cluster (default: the engine's own settings, else this "
        "machine)",
    )


def is_asked_for(arguments: argparse.Namespace) -> bool:
    """Whether the images are to be answered on a cluster.

    Raises:
        UsageError: options that do not belong together.
    """
    if arguments.engine is None:
        return False
    if arguments.csv:
        raise UsageError("`csv` is for answers that are printed: with `engine` they are Parquet.")
    if not arguments.output:
        raise UsageError("With `engine`, name the folder for the answers with `output`.")
    return True


def run(classifier: Classifier, sources: Sequence[str], arguments: argparse.Namespace) -> None:
    """Answer them, and print what was done.

    Raises:
        UsageError: there are no such images, or the folder holds something else.
        VitsdError: no image could be read; the engine is missing or gives up.
    """
    from vitsd_runtime.batch.answers import Options
    from vitsd_runtime.batch.run import classify

    if not sources:
        raise UsageError("There is nothing to classify: name images, folders, URLs or tables.")
    if {"", "-"} & set(sources):
        raise UsageError("With `engine`, images are named by paths and URLs.")
    summary = classify(
        classifier,
        sources,
        arguments.output,
        arguments.engine,
        Options(arguments.top_k, arguments.tta, arguments.resize_mode),
        address=arguments.address,
        workers=arguments.workers,
    )
    if arguments.json:
        rate = {"images_per_second": round(summary.images_per_second, 1)}
        output.write(json.dumps({**dataclasses.asdict(summary), **rate}) + "\n")
    else:
        output.write(_describe(summary))
    if summary.images and summary.errors == summary.images:
        raise VitsdError(
            f"None of {summary.images:,} images could be read: the rows in "
            f"{printable(summary.output)} say why."
        )


def _describe(summary: Summary) -> str:
    before = f", {summary.done_before:,} done before" if summary.done_before else ""
    return (
        f"{summary.images:,} images, {summary.errors:,} of them errors{before}; "
        f"{summary.seconds:.1f} s, {summary.images_per_second:,.0f} images/s, "
        f"{summary.workers} workers: {printable(summary.output)}\n"
    )
