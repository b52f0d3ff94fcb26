"""The routes of a server: ``/v1``, ``/metrics``, the page, and ``/v2`` (:mod:`.inference`)."""

from __future__ import annotations

import hmac
import logging
import time
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from vitsd_runtime.classifier import DEFAULT_TOP_K, TOP_K, answer_dict
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.serving import page
from vitsd_runtime.serving.batching import Row
from vitsd_runtime.serving.failures import EngineFailedError, QueueFullError, log_unforeseen
from vitsd_runtime.serving.inference import Inference
from vitsd_runtime.serving.metrics import Metrics
from vitsd_runtime.serving.models import Loaded, Model, Models
from vitsd_runtime.serving.responses import json_response, refusal, unauthorized
from vitsd_runtime.serving.settings import Settings
from vitsd_runtime.serving.uploads import Upload, read_uploads
from vitsd_runtime.system.text import printable

_log = logging.getLogger(__name__)
_OPEN = ("/", "/v2/health/live", "/v2/health/ready")
"""What needs no token, beside the files of the page: it tells nothing of models or images."""
_BODIES = 8
"""Requests of the largest size that are held in memory at once."""
_OPTIONS = ("model", "version", "top_k")


class App:
    """The ASGI application: checks the token, counts, and hands over to the routes.

    Args:
        models: that are served.
        metrics: where requests are counted.
        settings: of the server.
    """

    def __init__(self, models: Models, metrics: Metrics, settings: Settings) -> None:
        self._models, self._metrics, self._settings = models, metrics, settings
        self._held = 0
        """Bytes of the bodies of all requests that are in work."""
        self._token = None if settings.token is None else settings.token.encode()
        routes = [
            Route("/v1/predict", self._predict, methods=["POST"]),
            Route("/v1/models", self._list_models),
            Route("/", self._page),
            Route("/page/{name}", self._page),
            Route("/metrics", self._show_metrics),
            *Inference(models, settings).routes(),
        ]
        kinds = (HTTPException, ClientDisconnect, VitsdError, Exception)
        handlers: Any = dict.fromkeys(kinds, refusal)
        self._routes = Starlette(routes=routes, exception_handlers=handlers)
        # What it would send a client to is an address of its own, wrong behind a proxy.
        self._routes.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        start, status, held = time.perf_counter(), 500, 0

        async def counted() -> Message:
            nonlocal held
            message = await receive()
            size = len(message.get("body", b""))
            if self._held + size > _BODIES * self._settings.max_body << 20:
                self._held -= held  # now, before the others are refused, too
                held = 0
                raise QueueFullError("There are too many uploads at once. Try again.")
            held += size
            self._held += size
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-content-type-options", b"nosniff"))
            await send(message)

        try:
            if self._may_ask(scope):
                await self._routes(scope, counted, watched)
            else:
                await unauthorized()(scope, receive, watched)
        except Exception as error:
            if status < 500:  # else it is answered and logged, but Starlette raises it again
                log_unforeseen(error)
        finally:
            self._held -= held
        seconds = time.perf_counter() - start
        route = getattr(scope.get("endpoint"), "__name__", "none").strip("_")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if self._settings.access_log:
            client = (scope["client"] or ["-"])[0]
            path = printable(scope["path"], 100)
            _log.info("%s %s %s %s %.1f ms", client, scope["method"], path, status, 1e3 * seconds)

    def _may_ask(self, scope: Scope) -> bool:
        path = scope["path"]
        if self._token is None or path in _OPEN or path.startswith("/page/"):
            return True
        sent = next((v for name, v in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = sent.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    async def _predict(self, request: Request) -> Response:
        model, top_k = self._read_options(request)
        model.check_room()  # before a body is read that nobody would look at
        uploads = await read_uploads(request, self._settings)
        start = time.perf_counter()
        current, rows = await model.answer([upload.content for upload in uploads])
        milliseconds = 1e3 * (time.perf_counter() - start)
        for row in rows:
            if isinstance(row, EngineFailedError) or (
                len(rows) == 1 and isinstance(row, VitsdError)
            ):
                return refusal(request, row)  # raised, it could keep the model in memory
        results = [_result(u, row, current, top_k) for u, row in zip(uploads, rows)]
        return json_response(
            {
                "model": model.name,
                "version": current.version,
                "milliseconds": round(milliseconds, 2),
                "results": results,
            }
        )

    def _read_options(self, request: Request) -> tuple[Model, int]:
        options = request.query_params
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise HTTPException(
                400,
                f"There is no option {printable(unknown[0], 100)}: use {', '.join(_OPTIONS)}.",
            )
        try:
            top_k = TOP_K.parse(options.get("top_k", str(DEFAULT_TOP_K)))
        except UsageError as error:
            raise HTTPException(400, f"top_k {error}.") from error
        return self._models.find(options.get("model"), options.get("version")), top_k

    async def _list_models(self, request: Request) -> Response:
        listed = [_describe(model, i == 0) for i, model in enumerate(self._models)]
        return json_response({"models": listed})

    async def _page(self, request: Request) -> Response:
        found = page.page_file(request.path_params.get("name", page.INDEX))
        if found is None:
            raise HTTPException(404, "There is no such file.")
        content, kind = found
        headers = {"Content-Security-Policy": page.CSP, "Cache-Control": "no-cache"}
        return Response(content, headers=headers, media_type=kind)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")


def _result(upload: Upload, row: Row, loaded: Loaded, top_k: int) -> dict[str, Any]:
    if isinstance(row, VitsdError):
        return {"image": upload.name, "error": str(row)}
    return {"image": upload.name, **answer_dict(loaded.classifier.top(row.probabilities, top_k))}


def _describe(model: Model, default: bool) -> dict[str, Any]:
    loaded = model.current
    export, provenance = loaded.spec.export, loaded.spec.provenance
    return {
        "name": model.name,
        "version": loaded.version,
        "default": default,
        "classes": loaded.spec.class_names,
        "input_size": loaded.spec.input_size,
        "min_confidence": loaded.classifier.min_confidence,
        "quantization": export.quantization if export else "none",
        "test_top1": provenance.test_top1 if provenance else None,
        "sha256": loaded.sha256,
        "verified": loaded.verified,
    }
