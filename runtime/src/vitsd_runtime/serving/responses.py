"""Answers in JSON, and what becomes of errors: ``{"error": TEXT}`` with the status that fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.serving.failures import (
    EngineFailedError,
    QueueFullError,
    UnknownModelError,
    log_unforeseen,
)

RETRY_SECONDS = 1
"""After which a client that found no room may ask again: most of a queue is answered by then."""
_STATUS = {QueueFullError: 503, UnknownModelError: 404, EngineFailedError: 500}


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON in ASCII: names may hold what is no valid text."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Response(text, status, headers, "application/json")


def refusal(request: Request, error: Exception) -> Response:
    """The answer to a request that raised ``error``."""
    if isinstance(error, HTTPException):
        text = _text(error, request.method)
        return json_response({"error": text}, error.status_code, error.headers)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # nobody will get it
    if not isinstance(error, VitsdError):
        error = log_unforeseen(error)
    status = _STATUS.get(type(error), 400)
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
    return json_response({"error": str(error)}, status, headers)


def _text(error: HTTPException, method: str) -> str:
    """The error's own words, or more helpful ones than Starlette has."""
    allowed = (error.headers or {}).get("Allow")
    if allowed:
        return f"{method} is not for this address: use {allowed}."
    if error.detail == HTTPStatus(error.status_code).phrase:
        return "There is nothing at this address: see /v1/predict, /v1/models, /v2 and /metrics."
    return error.detail


def unauthorized() -> Response:
    """The answer to a request without the right token."""
    return json_response(
        {"error": "Send the server's token: Authorization: Bearer TOKEN."},
        401,
        {"WWW-Authenticate": "Bearer"},
    )
