"""Requests over HTTP: odd heads, forms and tensors, around images that may be damaged, too."""

from __future__ import annotations

import json
from random import Random

from tools.fuzz.mutators import document, images, raw

_END = b"\r\n\r\n"
_HEADERS = (
    b"Content-Length: 0",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Encoding: gzip",
    b"Expect: 100-continue",
    b"Expect: nothing",
    b"Connection: close",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Content-Type: multipart/form-data",
    b"Content-Type: multipart/form-data; boundary=",
    b"Content-Type: multipart/form-data; boundary=" + b"-" * 5000,
    b"Content-Type: multipart/form-data; charset=\xff; boundary=boundary-of-a-form",
    b"Content-Type: application/json",
    b"Content-Type: \xff",
    b"Inference-Header-Content-Length: 0",
    b"Inference-Header-Content-Length: \xb2",
    b"Inference-Header-Content-Length: 99999999999999",
    b"Authorization: Bearer \xff",
    b"X: " + b"a" * 70_000,
    b": ",
    b"\x00",
)
_TARGETS = (
    b"GET /",
    b"GET /metrics",
    b"GET /page/..%2fserver.py",
    b"GET /page/%00",
    b"GET /v1/models",
    b"GET /v2/models/%ff",
    b"HEAD /v2/health/ready",
    b"OPTIONS *",
    b"CONNECT a:1",
    b"POST http://[::1/",
    b"POST /v1/predict?top_k=1&top_k=2",
    b"POST /v1/predict?top_k=" + b"9" * 5000,
    b"POST /v1/predict?model=%ed%a0%80&version=%0a",
    b"POST /" + b"a" * 70_000,
)


def mutate(rng: Random, request: bytes) -> bytes:
    """A request with up to three changes; its length is right most of the time."""
    head, _, body = request.partition(_END)
    lines = head.split(b"\r\n")
    if rng.random() < 0.7:
        body = _body(rng, body)
    for _ in range(rng.choice((0, 0, 1, 2))):
        if rng.random() < 0.4:
            lines[0] = rng.choice(_TARGETS) + b" HTTP/1.1"
        else:
            lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(_HEADERS))
    if rng.random() < 0.9:
        lines = [line for line in lines if not line.startswith(b"Content-Length")]
        lines.append(b"Content-Length: %d" % len(body))
    out = b"\r\n".join(lines) + _END + body
    return raw.mutate(rng, out, [(0, len(head))]) if rng.random() < 0.15 else out


def _body(rng: Random, body: bytes) -> bytes:
    start = body.find(b"\x89PNG")
    if body.startswith(b"{") and rng.random() < 0.7:
        text, content = _split(body)
        return document.mutate(rng, text) + content
    if start >= 0 and rng.random() < 0.7:
        end = body.find(b"\r\n--", start)
        end = len(body) if end < 0 else end
        return body[:start] + images.mutate(rng, "image.png", body[start:end]) + body[end:]
    return raw.mutate(rng, body)


def _split(body: bytes) -> tuple[object, bytes]:
    """The JSON at the start of a body, and what follows."""
    value, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    return value, body[end:]
