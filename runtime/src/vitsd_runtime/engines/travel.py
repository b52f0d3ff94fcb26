"""Models that travel to other processes and machines: opened anew, and proven to be the same."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypedDict

from vitsd_runtime.engines.base import Engine, Model
from vitsd_runtime.engines.load import load_engine, load_fastest_engine
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.formats import digest_model, model_identity
from vitsd_runtime.models.catalog import bundled_model
from vitsd_runtime.system.fork import PerProcess
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Backend, Format


class EngineOptions(TypedDict, total=False):
    """What is rarely said about how an engine is started; fields of :class:`ModelSource`."""

    backend: Backend | None
    allow_any_operation: bool
    in_memory: bool


class Opened(NamedTuple):
    """An engine with a model loaded."""

    engine: Engine
    num_threads: int


@dataclass(frozen=True)
class ModelSource:
    """A model and how its engine is started: all that is needed to do it again elsewhere."""

    path: Path | str
    """Absolute; or the name of a bundled model, which each machine has somewhere else."""
    format: Format
    num_threads: int | None
    """None: measured, on each machine anew."""
    batch_size: int
    identity: tuple[int, ...]
    """:func:`model_identity` when it was loaded."""
    allow_any_operation: bool = False
    in_memory: bool = False
    backend: Backend | None = None
    """None: the first that is installed, on each machine anew."""
    sha256: str | None = None
    """Once it was asked for: the model must have it wherever it is opened again."""

    def find(self) -> Path:
        """The model's path on this machine."""
        return self.path if isinstance(self.path, Path) else bundled_model(self.path)

    def with_digest(self) -> ModelSource:
        """The same, with the model's SHA-256.

        Raises:
            VitsdError: it was changed or removed since it was loaded.
        """
        if self.sha256 is not None:
            return self
        path = self.find()
        if not path.exists() or model_identity(path) != self.identity:
            raise VitsdError(
                f"{printable(path)} was removed or replaced since it was loaded: load it again."
            )
        return replace(self, sha256=digest_model(path))

    def open(self) -> Opened:
        """Start the engine.

        Raises:
            UsageError, VitsdError: as for :func:`load_engine`.
        """
        path = self.find()
        in_memory = self.in_memory and self.format != "saved_model"
        model: Model = path.read_bytes() if in_memory else path
        options = self.batch_size, self.allow_any_operation, self.backend
        if self.num_threads is None:
            return Opened(*load_fastest_engine(model, self.format, *options))
        engine = load_engine(model, self.format, self.num_threads, *options)
        return Opened(engine, self.num_threads)

    def reopen(self) -> Opened:
        """Start the engine where the source came to from another process, or take the running one.

        A process keeps the last one, so that task after task uses it.

        Raises:
            VitsdError: the model is missing here, or is another one; or as for :meth:`open`.
        """
        last = _last.get()
        with last.lock:
            if last.opened is None or last.source != self:
                last.opened = None  # before the next one takes memory
                self._check()
                last.source, last.opened = self, self.open()
            return last.opened

    def _check(self) -> None:
        import platform  # 1 ms

        path = self.find()
        here = f"on this machine, {printable(platform.node())}"
        if not path.exists():
            raise VitsdError(
                f"{printable(path)} is not {here}: copy the model there, under the same path."
            )
        if digest_model(path) != self.sha256:
            raise VitsdError(
                f"{printable(path)} is another model {here} than where the classifier was "
                "loaded: the SHA-256 differs. Copy that model there."
            )


class _Last:
    """What a process has reopened last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.source: ModelSource | None = None
        self.opened: Opened | None = None


_last = PerProcess(_Last)
