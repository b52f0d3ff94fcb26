"""Hold back what other libraries log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_logger(name: str | None) -> Iterator[None]:
    """Let a logger say nothing below an error, for a while; None: the root logger.

    Handlers that are added to the root logger meanwhile are removed: absl, which TensorFlow logs
    with, adds one to a process that has none, and would then show our own messages twice.
    """
    logger, root = logging.getLogger(name), logging.getLogger()
    level, handlers = logger.level, root.handlers[:]
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        root.handlers[:] = handlers
