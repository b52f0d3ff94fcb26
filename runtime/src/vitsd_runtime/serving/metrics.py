"""What ``/metrics`` shows, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

if TYPE_CHECKING:
    from vitsd_runtime.serving.models import Model

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server. Labels come from tables of ours, never from clients."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "vitsd_requests", "Requests", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "vitsd_request_seconds",
            "From a request's head to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.cut_off = Counter(
            "vitsd_cut_off",
            "Connections that were refused (503: too many) or cut off, by what they were told",
            ["status"],
            registry=registry,
        )
        self.images = Counter(
            "vitsd_images",
            "Images: known, unknown (below the threshold), unreadable, failed (the model could not "
            "be run), refused (no room)",
            ["model", "outcome"],
            registry=registry,
        )
        self.batches = Histogram(
            "vitsd_batch_images",
            "Images that an engine took at once",
            buckets=_IMAGES,
            registry=registry,
        )
        self.reloads = Counter(
            "vitsd_reloads",
            "Changed model files: loaded, or refused",
            ["model", "outcome"],
            registry=registry,
        )
        self._waiting = Gauge(
            "vitsd_waiting_images", "Images in work", ["model", "pinned"], registry=registry
        )

    def watch(self, model: Model) -> None:
        """Show how many images a model has in work."""
        labels = (model.name, model.source.version or "")
        self._waiting.labels(*labels).set_function(lambda: model.waiting)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
