"""The endpoints against clients that dawdle: over real sockets, with small limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from readstates.streams.config import Settings
from readstates.streams.worker import http
from readstates.streams.worker.http import Endpoints, listen

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    endpoints = Endpoints(
        listen("127.0.0.1", 0), lambda: (True, "alive"), lambda: (False, "not yet")
    )
    await endpoints.on_start()
    assert endpoints._server is not None
    yield endpoints._server.sockets[0].getsockname()[1]
    await endpoints.on_stop()


async def exchange(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_loopback_is_the_default() -> None:
    assert Settings().http_host == "127.0.0.1"


async def test_a_connection_is_good_for_one_answer(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECTION_S", 3600)
    answer = await exchange(port, GET)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"ok: alive\n")
    assert (await exchange(port, GET.replace(b"healthz", b"readyz"))).startswith(b"HTTP/1.1 503")
    assert (await exchange(port, GET.replace(b"healthz", b"metrics"))).startswith(b"HTTP/1.1 200")


async def test_large_requests_are_refused(port: int) -> None:
    for sent in (
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        GET[:-2] + b"a: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n",
    ):
        status = (await exchange(port, sent))[len("HTTP/1.x ") :][:3]
        assert status in {b"400", b"405", b""}  # nothing: reset before it was all sent


async def test_who_says_nothing_is_shown_out(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTION_S", 0.1)
    for begun in (b"", b"GET /healthz HT", GET[:-2]):
        assert await exchange(port, begun) == b""


async def test_too_many_at_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 3)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    await asyncio.sleep(0.1)  # until the server has seen them
    assert await exchange(port, GET) == b""
    held[0][1].write(GET)
    assert (await held[0][0].read()).startswith(b"HTTP/1.1 200")
    assert (await exchange(port, GET)).startswith(b"HTTP/1.1 200")
    for _, writer in held:
        writer.close()
