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
            import keras

            keras.ops.zeros(())  # the first operation looks for devices, and TensorFlow logs that too
    except ValueError as error:  # no such backend
        raise UsageError(f"Keras can't start: {error} Set KERAS_BACKEND to tensorflow, jax or torch.") from error
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise UsageError(f'Keras has no backend here ({error}): pip install "vitsd[{backend}]".') from error
