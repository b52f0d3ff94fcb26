"""Images of many requests, decoded and classified by a few threads, several at a time.

The event loop hands a request over and is told when all of its images are answered. Whenever an
engine is free, it takes what waits, up to a batch: nobody waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Union

import numpy as np

from vitsd_runtime.classifier import Classifier, softmax
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.images.decoding import TooManyPixelsError
from vitsd_runtime.images.loading import load_for_model
from vitsd_runtime.serving.failures import EngineFailedError, log_unforeseen
from vitsd_runtime.types import Float32Array, UInt8Array

_LARGE = 12_500_000
"""Pixels, as phones make them. Images of more are decoded one at a time, in all models: each may
take half a GiB, and a device may have one for all of its cores."""
_one_large = threading.Lock()


class Scores(NamedTuple):
    """What a model makes of an image."""

    logits: Float32Array
    """``(classes,)``, as the engine gives them."""
    probabilities: Float32Array
    """``(classes,)``"""


Row = Union[Scores, VitsdError]
"""An image's scores, or why it has none."""


class _Request:
    """Images that came together, and those of their answers that are there."""

    def __init__(self, count: int) -> None:
        self.done: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        self.rows: list[Any] = [None] * count
        self.missing = count

    def put(self, index: int, row: Row) -> None:
        """Keep an answer; in the event loop."""
        self.rows[index] = row
        self.missing -= 1
        if not self.missing and not self.done.cancelled():  # the client may have gone
            self.done.set_result(self.rows)


_Job = tuple[_Request, int, UInt8Array]
"""The image at a place of a request, of the model's input size."""


class Batcher:
    """Threads that answer for one model.

    Args:
        classifiers: one for each thread that runs the engine; all of the same model.
        decoders: threads that read images, shared by all models.
        max_pixels: of an image that is decoded.
        on_batch: called with the number of images that an engine takes at once.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        decoders: ThreadPoolExecutor,
        max_pixels: int,
        on_batch: Callable[[int], object],
    ) -> None:
        self._spec = classifiers[0].spec
        self._decoders, self._max_pixels, self._on_batch = decoders, max_pixels, on_batch
        self._waiting: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, args=(classifier,), name="engine", daemon=True)
            for classifier in classifiers
        ]
        for thread in self._threads:
            thread.start()

    async def answer(self, images: Sequence[Any]) -> list[Row]:
        """The rows of images as :func:`load_image` takes them, in order; at least one."""
        request = _Request(len(images))
        for index, image in enumerate(images):
            self._decoders.submit(self._decode, request, index, image)
        return await request.done

    def stop(self) -> None:
        """End the threads, once everything is answered that was asked before."""
        for _ in self._threads:
            self._waiting.put(None)

    def _decode(self, request: _Request, index: int, image: Any) -> None:
        try:
            self._waiting.put((request, index, self._load(image)))
        except VitsdError as error:
            self._deliver([(request, index)], [error])
        except Exception as error:
            self._deliver([(request, index)], [log_unforeseen(error)])

    def _load(self, image: Any) -> UInt8Array:
        limit = self._max_pixels
        try:
            return load_for_model(image, self._spec, max_pixels=min(_LARGE, limit))
        except TooManyPixelsError:
            with _one_large:
                return load_for_model(image, self._spec, max_pixels=limit)

    def _work(self, classifier: Classifier) -> None:
        while True:
            jobs = self._next_jobs(classifier.batch_size)
            if not jobs:
                return
            self._on_batch(len(jobs))
            places = [job[:2] for job in jobs]
            try:
                batch = classifier.prepare(np.stack([job[2] for job in jobs]))
                logits = classifier.forward(batch)
                probabilities = softmax(logits, self._spec.temperature)
                rows: Sequence[Row] = [Scores(*both) for both in zip(logits, probabilities)]
            except VitsdError as error:
                rows = [EngineFailedError(str(error))] * len(jobs)
            except Exception as error:
                rows = [log_unforeseen(error)] * len(jobs)
            self._deliver(places, rows)

    def _next_jobs(self, size: int) -> list[_Job]:
        """What waits, at least one job and at most ``size``; none when the thread is to end."""
        jobs: list[_Job] = []
        job = self._waiting.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == size:
                return jobs
            try:
                job = self._waiting.get_nowait()
            except Empty:
                return jobs
        if jobs:
            self._waiting.put(None)  # it is this thread's, or another's: one ends for each
        return jobs

    def _deliver(self, places: Sequence[tuple[_Request, int]], rows: Sequence[Row]) -> None:
        def put_all() -> None:
            for (request, index), row in zip(places, rows):
                request.put(index, row)

        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(put_all)
