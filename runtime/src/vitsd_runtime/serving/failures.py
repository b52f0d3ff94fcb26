"""What can go wrong with a request that is no fault of its images."""

from __future__ import annotations

import logging
import os

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.text import DEBUG, unforeseen

_log = logging.getLogger(__name__)


class QueueFullError(VitsdError):
    """More images are being answered than there is room for."""


class UnknownModelError(VitsdError):
    """No model of this name and version is served."""


class EngineFailedError(VitsdError):
    """The model could not be run, or the server has a fault."""


def log_unforeseen(error: BaseException) -> EngineFailedError:
    """Say in the log what nobody foresaw; returns what a client is told."""
    _log.warning("%s", unforeseen(error), exc_info=error if os.environ.get(DEBUG) else None)
    return EngineFailedError("The server failed: its log says why.")
