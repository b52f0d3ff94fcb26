"""Many clients at once, in one process that takes little of the CPU for itself."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """What came of a request."""

    request: int
    """Its number."""
    status: int
    """Of HTTP; 0 if the connection broke before there was an answer."""
    head: bytes
    body: bytes
    seconds: float
    """From when it was due, which is earlier than it was sent where all connections were busy."""


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def ask_all(
    address: tuple[str, int],
    requests: Iterable[bytes],
    connections: int,
    rate: float | None = None,
) -> list[Reply]:
    """Send requests over several connections, each the next one when it has its answer.

    Args:
        address: of the server.
        requests: as :func:`post` makes them.
        connections: that are open at once; one that breaks is opened anew.
        rate: requests per second that are due, evenly; None: as fast as answers come.

    Returns:
        The replies in the order in which they came.
    """
    numbered = enumerate(requests)
    start = time.perf_counter()
    replies: list[Reply] = []

    async def work() -> None:
        client: _Client | None = None
        for number, request in numbered:
            due = time.perf_counter()
            if rate is not None:
                due = start + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if client is None or client.closed:
                client = await _connect(address)
            status, head, body = await client.ask(request) if client else (0, b"", b"")
            replies.append(Reply(number, status, head, body, time.perf_counter() - due))
        if client is not None:
            client.transport.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return replies


def repeat(requests: Sequence[bytes], count: int | None = None) -> Iterator[bytes]:
    """The requests again and again, ``count`` in all or for ever."""
    return itertools.islice(itertools.cycle(requests), count)


async def _connect(address: tuple[str, int]) -> _Client | None:
    try:
        _, client = await asyncio.get_running_loop().create_connection(_Client, *address)
    except OSError:
        return None
    return client


class _Client(asyncio.Protocol):
    """A connection that sends a request and waits for its answer."""

    transport: asyncio.Transport
    closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes, bytes]] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer; status 0 if the connection breaks."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self.closed = b"connection: close" in head.lower()
            self._received = b""
            self._finish((int(head[9:12]), head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._finish((0, b"", b""))

    def _finish(self, answer: tuple[int, bytes, bytes]) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)
