"""The models that are served: found by name and version, replaced when their file is."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitsd_runtime.classifier import Classifier
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.models.catalog import find_model
from vitsd_runtime.serving.batching import Batcher, Row
from vitsd_runtime.serving.failures import EngineFailedError, QueueFullError, UnknownModelError
from vitsd_runtime.serving.loading import load_classifiers
from vitsd_runtime.serving.metrics import Metrics
from vitsd_runtime.serving.settings import Settings
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.system.files import identify
from vitsd_runtime.system.text import first_line, printable

_log = logging.getLogger(__name__)
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_LOOK_EVERY = 1.0
"""Seconds between two looks at the files."""
_VERSION_DIGITS = 12

Identity = tuple[tuple[int, ...], ...]
"""Of what stands at a path: any change of a file changes it."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from, as ``[NAME[@VERSION]=]FILE`` says it."""

    name: str
    version: str | None
    """None: the version is told from the file's SHA-256."""
    path: Path

    @classmethod
    def parse(cls, word: str) -> Source:
        """Read a word of the command line; without NAME, the file's name without its ending is it.

        Raises:
            UsageError: the name or version can't stand in an address.
        """
        label, equals, path = word.partition("=")
        if not equals or os.path.exists(word):
            label, path = Path(word).stem, word
        found = re.fullmatch(rf"({_PLAIN})(?:@({_PLAIN}))?", label)
        if not found:
            raise UsageError(
                f"{printable(label)!r} can't be a model's name in an address: use letters, digits, "
                f"'.', '_' and '-', as in NAME={printable(path)} or NAME@VERSION=..."
            )
        return cls(found[1], found[2], find_model(path))


class Loaded:
    """One state of a model's file, with the threads that answer for it.

    Args:
        source: where it comes from.
        classifiers: of the same model, one for each thread.
        identity: of the file that they were loaded from.
        verified: whether it carries golden images, with which it was verified.
        batcher: their threads.
    """

    def __init__(
        self,
        source: Source,
        classifiers: Sequence[Classifier],
        identity: Identity,
        verified: bool,
        batcher: Batcher,
    ) -> None:
        self.classifier, self.identity, self.verified = classifiers[0], identity, verified
        self._batcher, self._busy, self._retired = batcher, 0, False
        integrity = self.spec.integrity
        self.sha256 = integrity.sha256 if integrity is not None else ""
        self.version = source.version or self.sha256[:_VERSION_DIGITS]

    @property
    def spec(self) -> ModelSpec:
        """The model's."""
        return self.classifier.spec

    async def answer(self, images: Sequence[Any]) -> list[Row]:
        """See :meth:`Batcher.answer`."""
        self._busy += 1
        try:
            return await self._batcher.answer(images)
        finally:
            self._busy -= 1
            self._stop_if_idle()

    def outcome(self, row: Row) -> str:
        """What became of an image, as it is counted."""
        if isinstance(row, VitsdError):
            return "failed" if isinstance(row, EngineFailedError) else "unreadable"
        return "known" if self.classifier.knows(row.probabilities) else "unknown"

    def retire(self) -> None:
        """End its threads after the last answer."""
        self._retired = True
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if self._retired and not self._busy:
            self._batcher.stop()


class Model:
    """A name and version under which one file after the other answers.

    Args:
        source: where the files stand.
        current: the first of them.
        queue_size: images that may be in work at once.
        metrics: where images are counted.
    """

    def __init__(self, source: Source, current: Loaded, queue_size: int, metrics: Metrics) -> None:
        self.source, self.current, self._queue_size = source, current, queue_size
        self._images = metrics.images
        self.waiting = 0
        """Images in work."""
        self.seen = self.refused = current.identity
        """The file as it was at the last look, and as it was when it was refused."""

    @property
    def name(self) -> str:
        """In addresses."""
        return self.source.name

    def check_room(self, images: int = 1) -> None:
        """Refuse what there is no room for.

        Raises:
            QueueFullError: there is none for this number of images.
        """
        if self.waiting + images > self._queue_size:
            self._images.labels(self.name, "refused").inc(images)
            raise QueueFullError(
                f"{self.name} is busy: {self.waiting} images are being answered. Try again."
            )

    async def answer(self, images: Sequence[Any]) -> tuple[Loaded, list[Row]]:
        """Rows for images as :func:`vitsd_runtime.load_image` takes them, and whose they are.

        Raises:
            QueueFullError: there is no room for them.
        """
        self.check_room(len(images))
        current = self.current
        self.waiting += len(images)
        try:
            rows = await current.answer(images)
        finally:
            self.waiting -= len(images)
        for row in rows:
            self._images.labels(self.name, current.outcome(row)).inc()
        return current, rows


class Models:
    """All models of a server.

    Args:
        settings: of the server.
        metrics: where batches and replacements are counted.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._models: list[Model] = []
        self._decoders = ThreadPoolExecutor(usable_cores(), "decoder")
        # One thread: malloc keeps for each what models that were loaded in it once took.
        self._loader = ThreadPoolExecutor(1, "loader")

    def __iter__(self) -> Iterator[Model]:
        """The models in the order in which they were given."""
        return iter(self._models)

    async def add(self, source: Source) -> None:
        """Load a model, verify it, and serve it.

        Raises:
            UsageError: the name and version are taken, or there is no such file.
            VitsdError: it can't be loaded, or does not pass its verification.
        """
        if any((m.name, m.source.version) == (source.name, source.version) for m in self._models):
            raise UsageError(
                f"Two models are called {source.name}: name them apart, as in NAME=FILE or "
                f"{source.name}@VERSION=FILE."
            )
        current = await self._load(source)
        model = Model(source, current, self._settings.queue_size, self._metrics)
        self._models.append(model)
        self._metrics.watch(model)
        _log.info("Model %s: %s", model.name, _describe(model))

    def find(self, name: str | None = None, version: str | None = None) -> Model:
        """The model of a name and version; without, or where they are "", the first that was given.

        Raises:
            UnknownModelError: there is none.
        """
        name, version = name or None, version or None
        for model in self._models:
            if name in (None, model.name) and version in (None, model.current.version):
                return model
        wanted = printable(name or self._models[0].name, 100)
        wanted += f" in version {printable(version, 100)}" if version else ""
        names = ", ".join(
            f"{model.name} (version {model.current.version})" for model in self._models
        )
        raise UnknownModelError(f"There is no model {wanted}; there are {names}.")

    async def keep_up(self) -> None:
        """For ever, replace models whose file has changed, if the new one is good."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            for model in self._models:
                await self._look(model)

    def stop(self) -> None:
        """End all threads; what is still in work is given up."""
        for model in self._models:
            model.current.retire()
        self._decoders.shutdown(cancel_futures=True)
        self._loader.shutdown()

    async def _look(self, model: Model) -> None:
        """Load a file that has changed since it was loaded, and not since the last look."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._loader, _identify, model.source.path)
        settled, model.seen = found == model.seen, found
        if not found or not settled or found in (model.current.identity, model.refused):
            return
        try:
            new = await self._load(model.source)
        except Exception as error:  # whatever it is, the old model goes on
            model.refused = found
            reason = error if isinstance(error, VitsdError) else first_line(error)
            self._metrics.reloads.labels(model.name, "refused").inc()
            _log.warning(
                "Model %s: the new file is refused, the old one stays: %s", model.name, reason
            )
            return
        old, model.current = model.current, new
        old.retire()
        self._metrics.reloads.labels(model.name, "loaded").inc()
        _log.info("Model %s: replaced by %s", model.name, _describe(model))

    async def _load(self, source: Source) -> Loaded:
        loop = asyncio.get_running_loop()
        identity = _identify(source.path)
        classifiers, verified = await loop.run_in_executor(
            self._loader, load_classifiers, source.path, self._settings
        )
        if _identify(source.path) != identity:
            raise VitsdError(f"{printable(source.path)} was changed while it was loaded.")
        batcher = Batcher(
            classifiers, self._decoders, self._settings.max_pixels, self._metrics.batches.observe
        )
        return Loaded(source, classifiers, identity, verified, batcher)


def _describe(model: Model) -> str:
    current = model.current
    state = "verified" if current.verified else "carries no golden images, so it was not verified"
    return (
        f"version {current.version}, {printable(model.source.path)}, "
        f"{current.classifier.engine.name}, {current.spec.num_classes} classes, {state}"
    )


def _identify(path: Path) -> Identity:
    """Empty where nothing can be found."""
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
    except OSError:
        return ()
    found = tuple(map(identify, files))
    return found if all(found) else ()
