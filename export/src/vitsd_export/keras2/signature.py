"""Run a Keras 2 SavedModel through its own serving signature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.stderr import quiet_stderr
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import AnyArray


@dataclass(frozen=True)
class Signature:
    """A SavedModel's own function from images to logits."""

    function: Callable[..., dict[str, Any]]
    saved_model: object
    """Must live as long as ``function`` is used."""
    argument: str
    """Name of the function's argument."""
    input_size: tuple[int, int, int]
    """Height, width and channels of an image."""

    @classmethod
    def load(cls, folder: Path) -> Signature:
        """Load the signature ``serving_default``.

        Raises:
            VitsdError: damaged, or not a function from images of a fixed size to logits.
        """
        try:
            with quiet_stderr():
                saved_model = tf.saved_model.load(str(folder))
            function = saved_model.signatures["serving_default"]
            ((argument, tensor),) = function.structured_input_signature[1].items()
            batch, height, width, channels = tensor.shape
            (_,) = function.structured_outputs
        except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            raise VitsdError(
                f"{printable(folder)} has no signature from images to logits ({first_line(error)})."
            ) from error
        if batch not in (None, 1) or None in (height, width, channels):
            raise VitsdError(
                f"{printable(folder)} takes images of shape {printable(tensor.shape)}; height, "
                "width and channels must be fixed."
            )
        return cls(function, saved_model, argument, (height, width, channels))

    def run(self, images: AnyArray) -> AnyArray:
        """Logits ``(n, classes)`` of images ``(n, *input_size)``, run one by one as float32."""
        logits = []
        for image in images:
            outputs = self.function(**{self.argument: tf.constant(image[None], tf.float32)})
            logits.append(next(iter(outputs.values())).numpy())
        return np.concatenate(logits)
