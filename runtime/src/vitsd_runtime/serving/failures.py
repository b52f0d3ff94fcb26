"""What can go wrong with a request that is no fault of its images."""

from __future__ import annotations

import logging
import os

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import first_line

_log = logging.getLogger(__name__)


class QueueFullError(VitsdError):
    """More images are being answered than there is room for."""


class UnknownModelError(VitsdError):
    """No model of this name and version is served."""


class EngineFailedError(VitsdError):
    """The model could not be run, or the server has a fault."""


def log_unforeseen(error: BaseException) -> EngineFailedError:
    """Say in the log what nobody foresaw; returns what a client is told."""
    _log.warning(
        "%s: %s (nobody foresaw this: please report it, with what VITSD_DEBUG=1 in the "
        "environment adds)",
        type(error).__name__,
        first_line(error),
        exc_info=error if os.environ.get("VITSD_DEBUG") else None,
    )
    return EngineFailedError("The server failed: its log says why.")
