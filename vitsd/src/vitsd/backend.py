"""Keras' backend: started once, and without its messages."""

from __future__ import annotations

import os

from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.system.text import first_line


def load_keras() -> None:
    """Import Keras and its backend without their start-up messages; for commands.

    Sets ``TF_CPP_MIN_LOG_LEVEL`` for this process, unless it is set.

    Raises:
        UsageError: the backend is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with quiet_stderr():
            import keras

            # The first operation looks for devices, and TensorFlow logs that too.
            keras.ops.zeros(())
    except ValueError as error:  # no such backend
        raise UsageError(
            f"Keras can't start: {first_line(error)} Set KERAS_BACKEND to tensorflow, jax or torch."
        ) from error
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise UsageError(
            f'Keras has no backend here ({first_line(error)}): pip install "vitsd[{backend}]".'
        ) from error


def on_accelerator() -> bool:
    """Whether Keras computes on something else than the CPU."""
    import keras

    return "cpu" not in str(keras.ops.zeros(()).device).lower()
