"""Connections of clients, within limits that uvicorn has none for."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, NoReturn

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from vitsd_runtime.serving.metrics import Metrics
from vitsd_runtime.serving.responses import RETRY_SECONDS, json_response
from vitsd_runtime.serving.settings import Settings

_MAX_HEAD = 64 * 2**10
"""Bytes of a request before its body."""
_HEAD_SECONDS = 10.0
"""For these bytes, from the first one or from the end of the answer before."""
_MAX_AHEAD = 32
"""Requests that a client sends before it has the answer to the first; uvicorn keeps any number."""
_UPGRADE = re.compile(rb"^upgrade(?=\s*:)", re.IGNORECASE | re.MULTILINE)
_LOOK_EVERY = 0.5
"""Seconds between two looks for clients that are late."""


class Config(uvicorn.Config):
    """uvicorn's, with our settings and metrics for :class:`Connection`."""

    def __init__(self, app: Any, settings: Settings, metrics: Metrics, **options: Any) -> None:
        super().__init__(app, http=Connection, **options)
        self.settings, self.metrics = settings, metrics


class Connection(HttpToolsProtocol):
    """A client that has to send each request, and to take each answer, in time."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits, self._metrics = config.settings, config.metrics
        self._head_seconds = min(_HEAD_SECONDS, self._limits.timeout)
        self._deadline: float | None = None
        """Of what the client is to send next."""
        self._unsent_since: float | None = None
        self._begun = 0
        """Requests whose first byte has come."""
        self._in_head = self._in_request = False
        self._head = 0
        """Bytes of the head that is coming."""

    def connection_made(self, transport: Any) -> None:
        """Start the clock; refuse a client too many."""
        super().connection_made(transport)
        self._give(self._head_seconds)
        if len(self.connections) > self._limits.max_connections:
            self.app = _refuse
            self._metrics.cut_off.labels("503").inc()
        if len(self.connections) > 2 * self._limits.max_connections:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bound what stands before a body, and hear no offer of another protocol in it.

        Java's and other clients offer HTTP/2 with every request; the parser would take the body for
        what comes after the switch, and then for requests.
        """
        if self._in_head or not self._in_request:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"x-upgrade", head) + end + rest
        first = self._begun if self._in_request else self._begun + 1
        super().data_received(data)
        # What comes with the end of another request is not told apart, but it is not much.
        self._head = self._head + len(data) if self._in_head and self._begun == first else 0
        if self._head > _MAX_HEAD:
            self._cut_off(431, "The head of the request is too large.")
        if len(self.pipeline) > _MAX_AHEAD:
            self.pipeline.clear()
            self.transport.abort()

    def eof_received(self) -> Any:
        """A client that has sent all may close its side, and is answered."""
        cycle = self.cycle
        if cycle is None or cycle.more_body or cycle.response_complete:
            return False
        cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        """Give time for the head of a request."""
        super().on_message_begin()
        self._begun += 1
        self._in_head = self._in_request = True
        self._give(self._head_seconds)

    def on_headers_complete(self) -> None:
        """Give time for its body."""
        self._in_head = False
        self._give(self._limits.timeout)
        if self.parser.should_upgrade():  # CONNECT, or an offer that came in pieces
            raise ValueError("no other protocol is spoken")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All has come."""
        super().on_message_complete()
        self._in_request = False
        self._deadline = None

    def on_response_complete(self) -> None:
        """Give time for the next request."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # uvicorn reads on
        if self._deadline is None:
            self._give(self._head_seconds)  # blank lines would keep an idle connection open

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where the parser gives up."""
        self._cut_off(400, "The request is no valid HTTP.")

    def look(self) -> None:
        """Cut the client off if it is late."""
        now = self.loop.time()
        if self._deadline is not None and now > self._deadline and not self.transport.is_closing():
            self._cut_off(408, "The request took too long to come.")
        if not self.transport.get_write_buffer_size():
            self._unsent_since = None
        elif self._unsent_since is None:
            self._unsent_since = now
        elif now > self._unsent_since + self._limits.timeout:
            self.transport.abort()

    def _give(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds

    def _cut_off(self, status: int, text: str) -> None:
        """Close the connection; say why, unless an answer is under way or another one is due."""
        self._metrics.cut_off.labels(str(status)).inc()
        cycle = self.cycle
        if not self.pipeline and (
            cycle is None or cycle.response_complete or not cycle.response_started
        ):
            body = json.dumps({"error": text}).encode()
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            head += "connection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()


async def watch(state: ServerState) -> NoReturn:
    """For ever, cut off clients that are late."""
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        for connection in list(state.connections):
            if isinstance(connection, Connection):
                connection.look()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
    text = "Too many connections are open. Try again."
    await json_response({"error": text}, 503, headers)(scope, receive, send)
