"""What a server is told, beside its models; every number is an option of ``vitsd-serve``."""

from __future__ import annotations

from dataclasses import dataclass

from vitsd_runtime.classifier import BACKEND, MIN_CONFIDENCE, NUM_THREADS
from vitsd_runtime.errors import UsageError
from vitsd_runtime.validation import Option, option, optional, validate

WORKERS = Option("engines that work at the same time, for each model", int, at_least=1, at_most=64)


@dataclass(frozen=True)
class Settings:
    """Of a server. Checked when it is made."""

    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = option(8000, "0: any that is free", at_least=0, at_most=65_535)
    batch_size: int = option(
        8, "images that an engine takes at once, if so many wait", at_least=1, at_most=4096
    )
    queue_size: int = option(
        64, "images of a model in work at once; more are refused", at_least=1, at_most=100_000
    )
    max_images: int = option(32, "in a request", at_least=1, at_most=100_000)
    max_body: int = option(32, "size of a request, in MiB", at_least=1, at_most=1024)
    max_pixels: int = option(
        50_000_000, "of an image, as it comes", at_least=1, at_most=1_000_000_000
    )
    max_connections: int = option(1000, "open at once", at_least=1, at_most=100_000)
    timeout: float = option(
        30.0, "seconds for a client to send a request, or to take its answer", above=0, at_most=3600
    )
    workers: int | None = optional(WORKERS)
    """None: as many as the cores allow."""
    num_threads: int | None = optional(NUM_THREADS)
    """None: measured."""
    backend: str | None = optional(BACKEND)
    """None: the first that is installed."""
    min_confidence: float | None = optional(MIN_CONFIDENCE)
    """None: the model's own."""
    token: str | None = None
    """That clients have to send; None: anyone may ask."""
    verify: bool = True
    """Check the models' SHA-256."""
    allow_any_operation: bool = False
    """As for :meth:`Classifier.load`."""
    access_log: bool = False
    """Log every request."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: one is out of range.
        """
        validate(self)
        if self.max_images > self.queue_size:
            raise UsageError(
                f"`max_images={self.max_images}` can't be more than `queue_size={self.queue_size}`:"
                " such a request would never find room."
            )
