"""What is compared: a file, how it is made from the trained model, and what runs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.peers.workshop import Workshop
from vitsd_runtime.types import Float32Array

Run = Callable[[Float32Array], Float32Array]
"""From preprocessed images ``(batch, size, size, channels)`` to logits ``(batch, classes)``."""
Precision = Literal["float32", "bfloat16", "int8"]
OURS = "vitsd"


@dataclass(frozen=True)
class Subject:
    """A row of the comparison."""

    name: str
    group: str
    """Who made the file: :data:`OURS`, or what people would use instead."""
    precision: Precision
    """Of the matrix products with weights."""
    build: Callable[[Workshop, int], Path]
    """The file or folder for a batch size, made in the workshop."""
    start: Callable[[Path, int, int], Run]
    """From the file, threads and batch size to a function that runs it."""
    any_batch: bool = True
    """Whether the file of one batch size takes all others."""
    batched: bool = True
    """Whether it runs several images at once at all."""

    @property
    def slug(self) -> str:
        """For names of files."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def ours(self) -> bool:
        """Whether vitsd-export has written it."""
        return self.group == OURS


def find(subjects: Sequence[Subject], name: str) -> Subject:
    """The subject of that name."""
    return next(subject for subject in subjects if subject.name == name)
