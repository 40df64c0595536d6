"""The endpoints against clients that dawdle: over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice

import pytest
import uvloop

from readstates.streams.config import Settings
from readstates.streams.worker import http
from readstates.streams.worker.http import Endpoints, listen

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = GET[:-2]
TIMEOUT_S = 30  # to fail, not to measure


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Runs one coroutine after the other in one loop: a worker's is uvloop's."""
    with asyncio.Runner(loop_factory=request.param) as made:
        yield made


@pytest.fixture
def port(runner: asyncio.Runner, caplog: pytest.LogCaptureFixture) -> Iterator[int]:
    """Endpoints at work; whatever clients do, the loop has no error to log."""
    endpoints = Endpoints(
        listen("127.0.0.1", 0), lambda: (True, "alive"), lambda: (False, "not yet")
    )
    runner.run(endpoints.on_start())
    assert endpoints._server is not None
    yield endpoints._server.sockets[0].getsockname()[1]
    runner.run(endpoints.on_stop())
    logged = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert [record.getMessage() for record in logged if record.name == "asyncio"] == []


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes."""
    try:
        return await asyncio.wait_for(reader.read(), TIMEOUT_S)
    except ConnectionResetError:
        return b""


async def exchange(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        return await until_closed(reader)
    finally:
        writer.close()


class Dawdlers:
    """Clients that send half of a request and wait."""

    def __init__(self) -> None:
        self.readers: list[asyncio.StreamReader] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def hold(self, clients: Iterable[socket.socket]) -> None:
        for client in clients:
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(HALF)
            self.readers.append(reader)
            self.writers.append(writer)

    async def answers(self) -> set[bytes]:
        """What came, when the server has closed all of them."""
        return set(await asyncio.gather(*map(until_closed, self.readers)))

    async def closed(self, count: int) -> None:
        """Until the server has closed so many."""
        ends = [asyncio.ensure_future(until_closed(reader)) for reader in self.readers]
        for end in islice(asyncio.as_completed(ends), count):
            await end
        for end in ends:
            end.cancel()

    async def leave(self) -> None:
        for writer in self.writers:
            writer.close()


def connect(port: int, count: int) -> list[socket.socket]:
    """Connected by the system, while the server's loop stands still."""
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


@pytest.fixture
def dawdlers(runner: asyncio.Runner, port: int) -> Iterator[Dawdlers]:
    made = Dawdlers()
    yield made
    runner.run(made.leave())


def test_loopback_is_the_default() -> None:
    assert Settings().http_host == "127.0.0.1"


def test_a_connection_is_good_for_one_answer(
    runner: asyncio.Runner, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECTION_S", 3600)
    answer = runner.run(exchange(port, GET))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"ok: alive\n")
    for path, status in ((b"readyz", b"503"), (b"metrics", b"200")):
        answer = runner.run(exchange(port, GET.replace(b"healthz", path)))
        assert answer.startswith(b"HTTP/1.1 " + status)


def test_large_requests_are_refused(runner: asyncio.Runner, port: int) -> None:
    for sent in (
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        HALF + b"a: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n",
    ):
        status = runner.run(exchange(port, sent))[len("HTTP/1.x ") :][:3]
        assert status in {b"400", b"405", b""}  # nothing: reset before it was all sent


def test_who_says_nothing_is_shown_out(
    runner: asyncio.Runner, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECTION_S", 0.1)
    for begun in (b"", b"GET /healthz HT", HALF):
        assert runner.run(exchange(port, begun)) == b""


def test_who_dawdles_shuts_nobody_out(
    runner: asyncio.Runner,
    port: int,
    dawdlers: Dawdlers,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than all connections are held; each next one ends the oldest."""
    monkeypatch.setattr(http, "CONNECTION_S", 3600)
    runner.run(dawdlers.hold(connect(port, http.CONNECTIONS_MAX + 5)))
    runner.run(dawdlers.closed(5))
    for _ in range(3):
        assert runner.run(exchange(port, GET)).startswith(b"HTTP/1.1 200")
    assert "http_connections_dropped" in caplog.text
    dawdlers.writers[-1].write(GET[len(HALF) :])  # the newest was let be
    assert runner.run(until_closed(dawdlers.readers[-1])).startswith(b"HTTP/1.1 200")


def test_nobody_is_shut_out_where_all_come_at_once(
    runner: asyncio.Runner, port: int, dawdlers: Dawdlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECTION_S", 3600)
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 3)
    runner.run(dawdlers.hold(connect(port, 20)))
    runner.run(dawdlers.closed(17))
    assert runner.run(exchange(port, GET)).startswith(b"HTTP/1.1 200")


def test_who_reads_slowly_keeps_no_memory(
    runner: asyncio.Runner, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks and never reads is shown out as well."""
    monkeypatch.setattr(http, "CONNECTION_S", 0.1)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(GET * 50_000)
        runner.run(asyncio.sleep(0.3))
        client.settimeout(TIMEOUT_S)
        with suppress(ConnectionResetError):
            while client.recv(1 << 16):
                pass


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "127.0.0.1:6066",
            "[::1]:6066",
            "10.1.2.3:6066",
            "localhost:1",
            "x.localhost",
        ),
        *("worker:6066", "my.name", "MY.NAME.:80", "a.b.svc", "given.example.com"),
    ],
)
def test_own_names(host: str) -> None:
    assert host in http.OwnNames("my.name", ".svc, given.example.com")


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example.com", "evil.example.com:6066", "127.0.0.1.nip.io", "localhost.example.com"),
        *("x.given.example.com", "svc.example.com", "127.0.0.1@evil.example.com", "[::1", "my.nam"),
    ],
)
def test_strange_names(host: str) -> None:
    assert host not in http.OwnNames("my.name", ".svc, given.example.com")


@pytest.mark.parametrize("path", [b"healthz", b"metrics", b""])
def test_a_page_of_another_site_reads_nothing(
    runner: asyncio.Runner, port: int, path: bytes
) -> None:
    """DNS rebinding: the browser sends the name of the page's site."""
    sent = GET.replace(b"healthz", path).replace(b"Host: x", b"Host: evil.example.com:6066")
    answer = runner.run(exchange(port, sent))
    assert answer.startswith(b"HTTP/1.1 421")
    assert b"HTTP_NAMES" in answer
    assert b"read_states" not in answer
    twice = sent.replace(b"\r\n\r\n", b"\r\nHost: localhost\r\n\r\n")
    assert not runner.run(exchange(port, twice)).startswith(b"HTTP/1.1 200")


def test_the_metrics_are_not_read_for_each_of_many(
    runner: asyncio.Runner, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read them takes long, and queries wait; yet nobody gets those of before the request."""
    readings = itertools.count()
    monkeypatch.setattr(http, "generate_latest", lambda: b"reading %d" % next(readings))
    get = GET.replace(b"/healthz", b"/metrics")

    def number(answer: bytes) -> int:
        return int(answer.split(b"reading ")[1])

    async def many() -> list[bytes]:
        return await asyncio.gather(*(exchange(port, get) for _ in range(30)))

    monkeypatch.setattr(http, "METRICS_S", 2.0, raising=False)
    seen = [number(answer) for _ in range(2) for answer in runner.run(many())]
    assert min(seen[30:]) > max(seen[:30])
    assert len(set(seen)) <= 4
