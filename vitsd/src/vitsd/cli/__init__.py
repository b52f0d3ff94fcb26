"""Command-line tools of the trainer."""

from __future__ import annotations

import os

from vitsd_runtime.console import quiet_stderr
from vitsd_runtime.errors import UsageError


def load_keras() -> None:
    """Import Keras and its backend without their start-up messages.

    Raises:
        UsageError: the backend is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with quiet_stderr():
            import keras  # noqa: F401
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise UsageError(f'Keras has no backend here ({error}): pip install "vitsd[{backend}]".') from error
