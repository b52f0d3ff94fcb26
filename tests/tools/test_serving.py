"""The load generator counts what happens, and the soak finds what is wrong."""

import asyncio
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serving(monkeypatch):
    """A function that imports a module of tools/serving."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"tools.serving.{name}")


def sample(time, memory=100.0, **statuses):
    return {"time": time, "memory_mb": memory, "statuses": statuses or {"200": 9, "503": 1}}


@pytest.mark.parametrize(
    ("samples", "code", "fault"),
    [
        ([sample(t) for t in range(9)], 0, None),
        ([sample(t, 100 + 2 * t) for t in range(9)], 0, "memory grew by"),
        ([sample(t, 100 + 20 * (t < 3)) for t in range(9)], 0, None),
        ([sample(0), sample(1, **{"200": 5, "0": 2})], 0, "2 requests ended with 0"),
        ([sample(0, **{"500": 1})], 0, "1 requests ended with 500"),
        ([sample(0)], 3, "exit code 3"),
    ],
)
def test_a_soak_is_judged(serving, samples, code, fault):
    report = serving("soak").judge(samples, code)
    assert [fault in found for found in report["faults"]] == ([True] if fault else [])


async def answer(reader, writer):
    """Two good answers on a connection, in pieces; then it breaks."""
    for body in (b"first", b""):
        await reader.readuntil(b"end")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write(head[:9])
        await writer.drain()
        await asyncio.sleep(0.001)
        writer.write(head[9:] + body)
    await reader.readuntil(b"end")
    writer.close()


def test_the_load_generator_loses_nothing(serving):
    load = serving("load")

    async def scenario():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()
            requests = load.repeat([load.post("/", b"end")], 30)
            return await load.ask_all(address, requests, connections=4, rate=2000)

    replies = asyncio.run(scenario())
    assert sorted(reply.request for reply in replies) == list(range(30))
    assert sum(reply.status == 0 for reply in replies) == pytest.approx(10, abs=4)
    assert {reply.body for reply in replies if reply.status} == {b"first", b""}


def test_where_nobody_listens_every_request_has_its_reply(serving):
    load = serving("load")
    replies = asyncio.run(load.ask_all(("127.0.0.1", 1), [b"x"] * 5, connections=2))
    assert [reply.status for reply in replies] == [0] * 5
