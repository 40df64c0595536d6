"""Records that go to many partitions with one request to each leader, whatever the brokers do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from readstates.streams.kafka import bundles as module
from readstates.streams.kafka import fetch_link
from readstates.streams.kafka.broker_clocks import monotonic_ms
from readstates.streams.kafka.bundles import Bundles, Item
from readstates.streams.kafka.protocol import Broker
from tests.support import raw_batches as raw
from tests.support.fake_broker import FakeBroker, FakeCluster
from tests.support.waiting import WAIT_S

PARTITIONS = 6
NOT_LEADER = 6


class World:
    """Bundles, and brokers in this process."""

    def __init__(self, brokers: int) -> None:
        self.cluster = FakeCluster(PARTITIONS, brokers)
        self.cluster.leaders = {number: number % brokers for number in range(PARTITIONS)}
        self.refused: list[tuple[bytes, str]] = []
        self.told = 0  # times that the leaders were asked for
        self.stamped: list[tuple[int, float, int, float]] = []
        self.bundles = Bundles(
            "t",
            None,
            lambda *one: self.refused.append(one),
            lambda *one: self.stamped.append(one),
        )

    def broker(self, number: int = 0) -> FakeBroker:
        return self.cluster.brokers[number]

    def note_leaders(self) -> None:
        places = {one.number: Broker("127.0.0.1", one.port) for one in self.cluster.brokers}
        self.bundles.note_leaders(self.cluster.leaders, places)

    def send(self, *numbers: int, for_s: float = WAIT_S) -> None:
        until = time.monotonic() + for_s
        batch = raw.batch_of(raw.NONE, [raw.Record(b"1", b"{}")])
        self.bundles.send([Item(n, b"%d" % n, batch, until) for n in numbers])

    def until(self, what: Callable[[], object]) -> None:
        """Step until that is true; leaders are told when they are asked for."""
        end = time.monotonic() + WAIT_S
        while not what():
            assert time.monotonic() < end
            self.bundles.step()
            if self.bundles.lacks_leaders:
                self.told += 1
                self.note_leaders()
            time.sleep(0.005)

    def has(self, *counts: int) -> bool:
        """True if the partitions have so many records."""
        return [log.end for log in self.cluster.logs] == [*counts]


@pytest.fixture
def made() -> Iterator[Callable[[int], World]]:
    worlds: list[World] = []

    def make(brokers: int) -> World:
        worlds.append(World(brokers))
        return worlds[-1]

    yield make
    for world in worlds:
        world.bundles.close()
        world.cluster.close()


def test_one_request_to_each_leader(made: Callable[[int], World]) -> None:
    world = made(2)
    world.send(*range(PARTITIONS))
    world.until(lambda: world.has(1, 1, 1, 1, 1, 1))
    assert [world.broker(number).produced for number in range(2)] == [[[0, 2, 4]], [[1, 3, 5]]]
    world.until(lambda: not world.bundles.is_busy)
    assert world.refused == []


def test_the_stamps_and_the_times_around_them(made: Callable[[int], World]) -> None:
    world = made(1)
    world.broker().stamp_ms = 1_700_000_000_000
    before = monotonic_ms()
    world.send(1, 2)
    world.until(lambda: not world.bundles.is_busy)
    assert [(number, stamp) for number, _, stamp, _ in world.stamped] == [
        (1, 1_700_000_000_000),
        (2, 1_700_000_000_000),
    ]
    for _, sent_ms, _, acknowledged_ms in world.stamped:
        assert before <= sent_ms <= acknowledged_ms <= monotonic_ms()
    world.broker().stamp_ms = -1  # the topic has the producers' times
    world.send(3)
    world.until(lambda: not world.bundles.is_busy)
    assert len(world.stamped) == 2


def test_a_partition_has_one_record_in_a_request(made: Callable[[int], World]) -> None:
    world = made(1)
    world.send(0, 0, 1)
    world.until(lambda: world.has(2, 1, 0, 0, 0, 0))
    assert world.broker().produced == [[0, 1], [0]]


def test_a_leader_that_has_moved(made: Callable[[int], World]) -> None:
    world = made(2)
    world.note_leaders()
    world.cluster.leaders[0] = 1
    world.send(0, 2)
    world.until(lambda: world.has(1, 0, 1, 0, 0, 0))
    assert world.broker(0).produced[0] == [0, 2]
    assert world.broker(1).produced == [[0]]


def test_a_connection_that_ends(made: Callable[[int], World]) -> None:
    world = made(1)
    world.send(0)
    world.until(lambda: world.has(1, 0, 0, 0, 0, 0))
    world.broker().cut()
    world.send(1)
    world.until(lambda: world.has(1, 1, 0, 0, 0, 0))
    world.broker().stop()
    world.told = 0
    world.send(2)
    world.until(lambda: world.told)
    assert world.has(1, 1, 0, 0, 0, 0)
    world.broker().restart()
    world.until(lambda: world.has(1, 1, 1, 0, 0, 0))
    assert world.refused == []


def test_a_broker_that_is_silent(
    made: Callable[[int], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records wait for it alone, and are sent again after a while."""
    monkeypatch.setattr(fetch_link, "RESPONSE_TIMEOUT_S", 0.3)
    world = made(2)
    world.broker(0).is_silent = True
    world.send(0, 1)
    world.until(lambda: world.has(1, 1, 0, 0, 0, 0))
    world.told = 0
    world.until(lambda: world.told)
    world.broker(0).is_silent = False
    world.until(lambda: world.has(2, 1, 0, 0, 0, 0))
    assert world.refused == []


def test_what_nobody_takes_is_refused(made: Callable[[int], World]) -> None:
    world = made(1)
    world.cluster.leaders = {1: 0}
    world.broker().fails[1] = deque([10] * 1000)
    world.send(0, 1, for_s=0.3)
    world.until(lambda: len(world.refused) == 2)
    assert dict(world.refused).keys() == {b"0", b"1"}
    assert "MESSAGE_TOO_LARGE" in dict(world.refused)[b"1"]
    assert dict(world.refused)[b"0"] == module.NO_LEADER
    assert not world.bundles.is_busy


def test_what_waits_is_bounded(
    made: Callable[[int], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 2)
    world = made(1)
    world.send(0, 1, 2)
    assert [token for token, _ in world.refused] == [b"2"]


def test_nothing_is_said_after_the_end(made: Callable[[int], World]) -> None:
    world = made(1)
    world.note_leaders()
    world.send(0, for_s=0.0)
    world.bundles.close()
    world.bundles.step()
    assert world.refused == []
    world.send(1)
    world.until(lambda: world.has(0, 1, 0, 0, 0, 0))
