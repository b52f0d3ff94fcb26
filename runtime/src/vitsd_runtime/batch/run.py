"""From sources of images to a table of answers, on an engine of clusters."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitsd_runtime.batch.answers import Options
from vitsd_runtime.batch.plan import make_plan
from vitsd_runtime.batch.results import Results
from vitsd_runtime.batch.storage import need_package
from vitsd_runtime.batch.work import Work
from vitsd_runtime.classifier import Classifier
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.types import ClusterEngine

_MODULES = {"ray": ("ray",), "spark": ("pyspark", "pyarrow")}
"""What each engine needs, to be told before anything is done."""
_REPORT_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What was done."""

    output: str
    images: int
    """That were answered now."""
    errors: int
    """Of these, that could not be read: their rows say why."""
    done_before: int
    """That were in the result already."""
    repeated: int
    """Names that came more than once, and were answered once."""
    seconds: float
    """From the first chunk to the last, workers starting included."""
    workers: int
    model_sha256: str

    @property
    def images_per_second(self) -> float:
        """Of all workers together."""
        return self.images / self.seconds if self.seconds else 0.0


def classify(
    classifier: Classifier,
    sources: Sequence[str],
    output: str,
    engine: ClusterEngine,
    options: Options | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
) -> Summary:
    """Answer many images, each once, into a folder of Parquet files.

    What is in the folder already is not done again. Columns: ``path``, ``label``, ``probability``,
    ``known``, ``top_k``, ``error``, ``model_sha256``.

    Args:
        classifier: made by :meth:`Classifier.load`; its ``num_threads`` is what each worker takes
            of the CPUs.
        sources: paths and URLs of images, of folders of them and of Parquet files, and patterns.
        output: path or URL of the folder. Workers on other machines must reach it, and the sources.
        engine: ``"ray"`` or ``"spark"``.
        options: how images are answered.
        address: of a cluster; None: this machine, or what the engine's own settings say.
        workers: None: as many as there are CPUs.

    Raises:
        UsageError: there are no such images, or the folder holds something else.
        VitsdError: the engine is missing or gives up; the result can't be written.
    """
    need_package(engine, *_MODULES[engine])
    options = options or Options()
    made_with = {**dataclasses.asdict(options), **classifier.fingerprint()}
    results = Results(output, made_with)
    plan = make_plan(sources, results.done(), options.top_k, results.folder)
    if plan.repeated:
        _log.warning("%s names came more than once: each is answered once", f"{plan.repeated:,}")
    _log.info("%s images to do, %s done before", f"{plan.images:,}", f"{plan.done:,}")
    begin, errors, used = time.monotonic(), 0, 0
    if plan.chunks:
        results.begin()
        module: Any = importlib.import_module(f"{__package__}.{engine}")
        with module.Cluster(address, workers, classifier.num_threads) as cluster:
            used = cluster.workers
            begin = time.monotonic()
            work = Work(classifier, options, results)
            chunks = [chunk.to_json() for chunk in plan.chunks]
            errors = _follow(cluster.map(work, chunks), plan.images)
        results.forget_tries()
    return Summary(
        output=output,
        images=plan.images,
        errors=errors,
        done_before=plan.done,
        repeated=plan.repeated,
        seconds=time.monotonic() - begin,
        workers=used,
        model_sha256=classifier.sha256,
    )


def _follow(done: Any, total: int) -> int:
    """Report progress; returns the number of errors."""
    images = errors = 0
    begin = reported = time.monotonic()
    for chunk in done:
        if chunk["failure"]:
            raise VitsdError(chunk["failure"])
        images, errors = images + chunk["images"], errors + chunk["errors"]
        now = time.monotonic()
        if now - reported > _REPORT_SECONDS:
            reported = now
            _log.info(
                "%s of %s images, %s errors, %.0f images/s",
                *(f"{images:,}", f"{total:,}", f"{errors:,}", images / (now - begin)),
            )
    return errors
