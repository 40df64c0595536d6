"""A reader while leaders move, brokers are away, and their answers are errors or none at all."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import deque
from collections.abc import Callable

import pytest

from readstates.streams.config import Settings
from readstates.streams.errors import DataLossError, GroupError
from readstates.streams.kafka import broker, fetch_link, fetches, leaders
from readstates.streams.kafka.cluster import Cluster
from readstates.streams.kafka.protocol import Broker
from readstates.streams.kafka.reader import Reader
from readstates.streams.kafka.reading import UPDATES, Gather
from tests.support.fake_broker import FakeCluster
from tests.support.reader_world import (
    NOT_ALLOWED,
    NOT_LEADER,
    STORAGE,
    UNKNOWN_TOPIC,
    World,
    waiting,
)


async def test_the_leader_moves(worlds: Callable[..., World]) -> None:
    world = worlds(partitions=2, brokers=2)
    for number in range(2):
        world.cluster.append(number, b"a")
        world.reader.start(number, 0, token=1)
        await world.read(number, 1)
    world.cluster.leaders[0] = 1
    world.cluster.append(0, b"b")
    world.cluster.append(1, b"b")
    for number in range(2):
        assert await world.read(number, 2, token=1) == [0, 1]
    assert [asked.positions.keys() for asked in world.cluster.brokers[1].asked][-1] == {0}


async def test_a_leader_that_moves_without_an_answer_of_the_old_one(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaders, "REFRESH_S", 0.05)
    world = worlds(waiting(), partitions=2, brokers=2)
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    await world.read(0, 1)
    world.broker.is_silent = True  # its fetch has a minute before its answer is late
    world.cluster.append(0, b"b")
    world.cluster.leaders[0] = 1
    monkeypatch.setattr(world.reader._fetches.leaders, "_at", None)
    world.reader._fetches.leaders._close_socket()
    assert await world.read(0, 2, token=1) == [0, 1]
    world.broker.is_silent = False  # the late answer counts for nothing
    world.cluster.append(0, b"c")
    assert await world.read(0, 3, token=1) == [0, 1, 2]


async def test_connections_that_end(worlds: Callable[..., World]) -> None:
    world = worlds(waiting(), partitions=2)
    for number in range(2):
        world.reader.start(number, 0, token=1)
    for count in range(1, 6):
        await world.asked(lambda asked: asked.wait_ms > 0, since=len(world.broker.asked) - 1)
        world.broker.cut()
        for number in range(2):
            world.cluster.append(number, b"v")
            assert await world.read(number, count, token=1) == list(range(count))


async def test_a_broker_that_is_away(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds(partitions=2, brokers=2)
    world.cluster.leaders[1] = 1
    for number in range(2):
        world.cluster.append(number, b"a")
        world.reader.start(number, 0, token=1)
        await world.read(number, 1)
    world.broker.stop()
    for number in range(2):
        world.cluster.append(number, b"b")
    assert await world.read(1, 2, token=1) == [0, 1]  # the other one serves
    await asyncio.sleep(0.2)
    assert world.offsets(0) == [0]
    world.broker.restart()
    assert await world.read(0, 2, token=1) == [0, 1]
    lines = [r.getMessage() for r in caplog.records if "not_read topic=t" in r.getMessage()]
    assert 1 <= len(lines) <= 3  # once a minute for each kind
    assert f"127.0.0.1:{world.broker.port}" in lines[0]


async def test_a_broker_that_does_not_answer(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_link, "RESPONSE_TIMEOUT_S", 0.2)
    gather = Gather(50, 1)
    world = worlds(UPDATES._replace(idle=gather, busy=gather))
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    await world.read(0, 1)
    world.broker.is_silent = True
    await asyncio.sleep(0.5)
    world.broker.is_silent = False
    world.cluster.append(0, b"b")
    assert await world.read(0, 2, token=1) == [0, 1]
    assert len({asked.connection for asked in world.broker.asked}) > 1


async def test_metadata_of_a_broker_that_does_not_answer(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is asked first, and the new leader does not wait for it."""
    monkeypatch.setattr(fetch_link, "RESPONSE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(broker, "CONNECT_TIMEOUT_S", 1000.0)
    gather = Gather(50, 1)
    world = worlds(UPDATES._replace(idle=gather, busy=gather), brokers=2)
    asked_first = Broker("127.0.0.1", world.broker.port)
    monkeypatch.setattr(world.reader._fetches.leaders, "_bootstrap", [asked_first])
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    await world.read(0, 1)
    await asyncio.sleep(0.2)  # the question of the start is asked again once
    assert world.reader._fetches.leaders._at == asked_first
    world.broker.is_silent = True
    world.cluster.leaders[0] = 1
    world.cluster.append(0, b"b")
    assert await world.read(0, 2, token=1) == [0, 1]


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack(">ii", 4, -5),
        struct.pack(">i", -1),
        struct.pack(">i", 2) + b"xx",
        struct.pack(">i", broker.RESPONSE_BYTES_MAX + 1) + bytes(100),
    ],
    ids=["HTTP", "another answer", "negative", "short", "too large"],
)
async def test_what_is_no_answer(
    worlds: Callable[..., World], response: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds()
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    await world.read(0, 1)
    world.broker.response = response
    world.cluster.append(0, b"b")
    assert await world.read(0, 2, token=1) == [0, 1]
    assert any("not_read topic=t" in r.getMessage() for r in caplog.records)
    assert world.refused == []


@pytest.mark.parametrize("code", [UNKNOWN_TOPIC, STORAGE, NOT_LEADER, 2, -1])
async def test_errors_that_pass(worlds: Callable[..., World], code: int) -> None:
    world = worlds()
    world.cluster.append(0, b"a")
    world.broker.fails[0] = deque([code] * 5)
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 1, token=1) == [0]
    assert world.refused == []
    assert world.cluster.metadata_requests > 1


async def test_the_next_record_is_gone(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.cluster.append(0, b"a", b"b")
    world.cluster.logs[0].start = 1
    world.reader.start(0, 0, token=1)
    await world.until(lambda: world.refused)
    (refused,) = world.refused
    assert isinstance(refused, DataLossError)
    assert "t partition 0: the next update to be read is outside the log" in str(refused)
    assert world.offsets() == []


async def test_an_old_leader_that_knows_no_better(worlds: Callable[..., World]) -> None:
    """It says that the offset is out of its range: it is asked again, or the new one is."""
    world = worlds()
    world.cluster.append(0, b"a")
    world.broker.fails[0] = deque([1] * (fetches.OUT_OF_RANGE_TRIES - 1))
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 1, token=1) == [0]
    assert world.refused == []


@pytest.mark.parametrize("of", ["fetch", "topic"])
async def test_a_topic_that_may_not_be_read(worlds: Callable[..., World], of: str) -> None:
    world = worlds()
    if of == "fetch":
        world.broker.fails[0] = deque([NOT_ALLOWED])
    else:
        world.cluster.topic_error = NOT_ALLOWED
    world.reader.start(0, 0, token=1)
    await world.until(lambda: world.refused)
    assert isinstance(world.refused[0], GroupError)
    assert "t: this worker is not allowed to read it" in str(world.refused[0])


async def test_a_topic_that_is_not_there_yet(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds()
    world.cluster.append(0, b"a")
    kept, world.cluster.leaders = world.cluster.leaders, {}
    world.cluster.topic_error = UNKNOWN_TOPIC
    world.reader.start(0, 0, token=1)
    await world.until(lambda: "UNKNOWN_TOPIC_OR_PARTITION" in caplog.text)
    world.cluster.topic_error, world.cluster.leaders = 0, kept
    assert await world.read(0, 1, token=1) == [0]


def _asks_first(monkeypatch: pytest.MonkeyPatch, place: Broker) -> None:
    """Otherwise the first broker to be asked is drawn by lot."""
    monkeypatch.setattr(random, "shuffle", lambda places: places.sort(key=lambda one: one != place))


async def test_a_broker_of_another_cluster_is_not_believed(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a topic of the same name, such as a mirror, and leads all of its partitions."""
    world, mirror = worlds(), FakeCluster(1, 1)
    world.cluster.append(0, b"a")
    mirror.append(0, b"b", b"b")
    mirror.brokers[0].cluster_id = "mirror"
    _asks_first(monkeypatch, Broker("127.0.0.1", mirror.brokers[0].port))
    reader = Reader(
        Settings(kafka_bootstrap=f"{mirror.bootstrap},{world.cluster.bootstrap}"),
        "t", UPDATES, world.put, world.refused.append, world.wants, cluster=Cluster("cluster"),
    )  # fmt: skip
    reader.start(0, 0, token=1)
    await world.read(0, 1, token=1)
    assert [r.value for batch in world.batches() for r in batch.records] == [b"a"]
    reader.close()
    mirror.close()
    assert mirror.brokers[0].asked == []
    assert "belongs to the cluster mirror, and the worker to cluster" in caplog.text


async def test_a_name_that_no_host_can_have(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Python raises an error that is no OSError."""
    world, name = worlds(), f"{'a' * 64}.example"
    world.cluster.append(0, b"a")
    _asks_first(monkeypatch, Broker(name, 1))
    settings = Settings(kafka_bootstrap=f"{name}:1,{world.cluster.bootstrap}")
    reader = Reader(settings, "t", UPDATES, world.put, world.refused.append, world.wants)
    reader.start(0, 0, token=1)
    assert await world.read(0, 1, token=1) == [0]
    reader.close()
    assert "is not the name of a host" in caplog.text


async def test_a_partition_without_leader(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds(partitions=2)
    world.cluster.append(0, b"a")
    world.cluster.leaders[0] = -1
    world.reader.start(0, 0, token=1)
    await world.until(lambda: "t partitions [0]: there is no leader" in caplog.text)
    world.cluster.leaders[0] = 0
    assert await world.read(0, 1, token=1) == [0]


def test_addresses() -> None:
    assert leaders.addresses("a:1, b ,[::1]:3,[::2]") == [
        ("a", 1), ("b", 9092), ("::1", 3), ("::2", 9092),
    ]  # fmt: skip
