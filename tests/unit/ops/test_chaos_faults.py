"""The campaign's schedule, and the proxy that cuts one worker off."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaException

from readstates.ops.chaos.campaign import Campaign, Fault
from readstates.ops.chaos.faults import Unexpected
from readstates.ops.chaos.proxy import BLACK_HOLE, RESET, Proxy, behind
from readstates.ops.chaos.schedule import ALONE, KINDS, SERVER, WORKER, Kind, schedule
from readstates.ops.chaos.world import World

WAIT_S = 10.0


def test_every_kind_and_the_number_asked_for() -> None:
    steps = schedule(60, random.Random(1))
    kinds = [kind for step in steps for kind in step]
    assert len(kinds) == 60
    assert set(kinds) == set(KINDS)
    together = [step for step in steps if len(step) > 1]
    assert together
    assert all({kind.of for kind in step} == {WORKER, SERVER} for step in together)


def test_only_the_kinds_asked_for() -> None:
    for names in (["open transaction", "clock jumps"], ["topic settings"]):
        kinds = [kind for step in schedule(5, random.Random(1), names) for kind in step]
        assert len(kinds) == 5
        assert {kind.name for kind in kinds} == set(names)


def test_the_seed_is_the_schedule() -> None:
    assert schedule(60, random.Random(1)) == schedule(60, random.Random(1))
    assert schedule(60, random.Random(1)) != schedule(60, random.Random(2))


def test_the_long_replay_comes_early() -> None:
    for seed in range(20):
        kinds = [kind.name for step in schedule(60, random.Random(seed)) for kind in step]
        assert kinds.index("offsets deleted") < 16


@pytest.mark.parametrize("error", [TimeoutError(), KafkaException("no"), Unexpected("no")])
def test_a_fault_that_fails_is_a_problem_and_ends_no_campaign(error: Exception) -> None:
    def act(_world: World, _rng: random.Random) -> str:
        raise error

    world: Any = SimpleNamespace(rest=lambda _seconds: None)
    campaign = Campaign(world, 1, lambda _text: None, 0)
    vars(campaign).update(_updates=SimpleNamespace(sent=0), _queries=SimpleNamespace(asked=[]))
    fault = Fault("x", 0)
    campaign._one(Kind("x", ALONE, 0, act), fault, random.Random(1))
    assert fault.what.startswith("UNEXPECTED")
    assert len(campaign.result.problems) == 1
    assert not campaign.result.right


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while chunk := connection.recv(100):
                connection.sendall(chunk)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


def exchange(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return client.recv(100)


@pytest.fixture
def proxy(echo: tuple[str, int]) -> Iterator[Proxy]:
    made = Proxy([echo]).start()
    yield made
    made.close()


def test_proxy_passes_and_holds_back(proxy: Proxy, echo: tuple[str, int]) -> None:
    with socket.create_connection((behind(echo[0]), echo[1]), WAIT_S) as client:
        assert exchange(client, b"one") == b"one"
        proxy.cut(BLACK_HOLE)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            exchange(client, b"two")
        proxy.mend()
        client.settimeout(WAIT_S)
        assert client.recv(100) == b"two"


def test_proxy_resets(proxy: Proxy, echo: tuple[str, int]) -> None:
    place = (behind(echo[0]), echo[1])
    with socket.create_connection(place, WAIT_S) as client:
        assert exchange(client, b"one") == b"one"
        proxy.cut(RESET)
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""
    with socket.create_connection(place, WAIT_S) as client, contextlib.suppress(ConnectionError):
        assert exchange(client, b"two") == b""
    proxy.mend()
    with socket.create_connection(place, WAIT_S) as client:
        assert exchange(client, b"three") == b"three"


def test_a_cut_is_for_those_behind_the_proxy(proxy: Proxy, echo: tuple[str, int]) -> None:
    proxy.cut(BLACK_HOLE)
    with socket.create_connection(echo, WAIT_S) as client:
        assert exchange(client, b"one") == b"one"
