"""Command-line tools of the trainer."""

from __future__ import annotations

import argparse
import os

from vitsd.data.dataset import BUILT_IN, SPLITS
from vitsd_runtime.cli import options
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.stderr import quiet_stderr


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options of every tool that judges models on labelled images."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help=f"{', '.join(BUILT_IN)}, a folder, or an .npz file",
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: test")
    parser.add_argument(
        "--limit", type=options.positive_int, metavar="N", help="use at most N images"
    )


def load_keras() -> None:
    """Import Keras and its backend without their start-up messages.

    Raises:
        UsageError: the backend is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with quiet_stderr():
            import keras

            keras.ops.zeros(
                ()
            )  # the first operation looks for devices, and TensorFlow logs that too
    except ValueError as error:  # no such backend
        raise UsageError(
            f"Keras can't start: {error} Set KERAS_BACKEND to tensorflow, jax or torch."
        ) from error
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise UsageError(
            f'Keras has no backend here ({error}): pip install "vitsd[{backend}]".'
        ) from error
