"""Try a model in a process of its own: does it answer here as where it was exported?"""

from __future__ import annotations

from pathlib import Path

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.child import run_in_child
from vitsd_runtime.verification import verify

_MAX_SECONDS = 300
"""Of the slowest boards."""


def try_model(path: Path) -> None:
    """Verify a model as ``vitsd-verify`` does, in a process with limits: it may end its engine.

    Raises:
        VitsdError: it fails; the message, without an end, says why.
    """
    reason = run_in_child(__name__, str(path), seconds=_MAX_SECONDS)
    if reason is not None:
        raise VitsdError(reason.rstrip("."))


def main(path: str) -> None:
    """The new process."""
    problem = verify(Classifier.load(path, num_threads=1)).problem
    if problem is not None:
        raise VitsdError(problem)
