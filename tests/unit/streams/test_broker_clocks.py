"""How far a clock is corrected: only as far as the measurements prove."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from readstates.schemas.headers import (
    DEADLINE_DEFAULT_MS,
    DEADLINE_MAX_MS,
    HEADER_CLOCK,
    HEADER_DEADLINE,
    deadline_ms,
)
from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.kafka.broker_clocks import DRIFT, MEASURE_EVERY_S, BrokerClocks
from readstates.streams.kafka.delivery import Delivery


class Report:
    """A delivery report: the broker's timestamp."""

    def __init__(self, stamped_ms: int) -> None:
        self._stamped_ms = stamped_ms

    def timestamp(self) -> tuple[int, int]:
        return 2, self._stamped_ms


class World:
    """Three clocks: the monotonic one, ours on the wall, and a broker's. A producer of lists."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms, self.ahead_ms, self.broker_ahead_ms = 5_000.0, 0.0, 0.0
        self.sent: list[dict[str, Any]] = []
        self.noted: list[tuple[int, str, int]] = []  # failures, for the producer to be made anew
        delivery = Delivery(Settings())
        monkeypatch.setattr(delivery, "producer", lambda _name, _config, _topics: self)
        self.now = self  # a LastingProducer's producer
        self.clocks = BrokerClocks(
            Settings(),
            delivery,
            wall_ms=lambda: 1_700_000_000_000 + self.now_ms + self.ahead_ms,
            monotonic_ms=lambda: self.now_ms,
        )

    def note_failure(self, error: KafkaError, topic: str, partition: int) -> None:
        self.noted.append((error.code(), topic, partition))

    def produce(self, topic: str, **record: Any) -> None:
        assert topic == Settings().queries_topic
        self.sent.append(record)

    def measure(self, there_ms: float = 1, back_ms: float = 1, number: int = 0) -> None:
        """One record: so long to the broker, and its acknowledgment so long back."""
        self.clocks._measure([number])
        record = self.sent.pop()
        assert (record["partition"], record["headers"]) == (number, [(HEADER_CLOCK, b"")])
        self.now_ms += there_ms
        stamped = int(1_700_000_000_000 + self.now_ms + self.broker_ahead_ms)
        self.now_ms += back_ms
        record["on_delivery"](None, cast(Any, Report(stamped)))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.mark.parametrize("wrong_ms", [8_000, -8_000, 30 * 86_400_000])
def test_a_wrong_clock_is_corrected_as_far_as_is_proven(world: World, wrong_ms: int) -> None:
    world.ahead_ms = wrong_ms
    assert world.clocks.ahead_ms(0) == 0  # nothing is known
    world.measure(there_ms=100, back_ms=300)
    assert 0 <= (wrong_ms - world.clocks.ahead_ms(0)) * (1 if wrong_ms > 0 else -1) <= 401
    for _ in range(3):
        world.measure()
    assert abs(world.clocks.ahead_ms(0) - wrong_ms) <= 3


def test_slow_brokers_are_not_taken_for_a_wrong_clock(world: World) -> None:
    for there, back in ((3_000, 1), (1, 3_000), (0, 0), (900, 900)):
        world.measure(there, back)
        assert world.clocks.ahead_ms(0) == 0


def test_a_clock_that_is_set_is_noticed_at_once(world: World) -> None:
    world.measure()
    world.ahead_ms = 8_000  # ours: the monotonic clock goes on, so nothing is measured anew
    assert abs(world.clocks.ahead_ms(0) - 8_000) <= 3


def test_a_broker_whose_clock_is_set_is_believed(world: World) -> None:
    for ahead_ms in (0, 5_000, -7_000, 0):
        world.broker_ahead_ms = ahead_ms
        world.measure()
        assert abs(world.clocks.ahead_ms(0) + ahead_ms) <= 3


def test_what_is_old_proves_less(world: World) -> None:
    world.ahead_ms = 8_000
    world.measure(0, 0)
    world.now_ms += 1_000_000
    assert abs(world.clocks.ahead_ms(0) - (8_000 - 1_000_000 * DRIFT)) <= 2


def test_each_leader_has_its_clock_and_a_new_partition_the_latest(world: World) -> None:
    world.measure(number=0)
    world.broker_ahead_ms = 9_000
    world.measure(number=1)
    assert world.clocks.ahead_ms(0) == 0
    for number in (1, 2):
        assert abs(world.clocks.ahead_ms(number) + 9_000) <= 3


def test_a_record_that_was_not_taken_measures_nothing(world: World) -> None:
    before = metrics.CLOCK_FAILURES._value.get()
    world.ahead_ms = 8_000
    world.clocks._measure([0])
    world.sent.pop()["on_delivery"](KafkaError(KafkaError._MSG_TIMED_OUT), cast(Any, None))
    assert world.clocks.ahead_ms(0) == 0
    assert metrics.CLOCK_FAILURES._value.get() == before + 1
    assert world.noted == [(KafkaError._MSG_TIMED_OUT, Settings().queries_topic, 0)]


def test_partitions_take_turns(world: World) -> None:
    owned = range(25)
    world.clocks.step(owned)
    assert {one["partition"] for one in world.sent} == set(owned)  # all are new
    for one in world.sent:
        one["on_delivery"](None, cast(Any, Report(1_700_000_000_000)))
    world.sent.clear()
    for _ in range(MEASURE_EVERY_S):
        world.clocks.step(owned)
    assert sorted(one["partition"] for one in world.sent) == list(owned)


def test_probes_are_measurements_too(world: World) -> None:
    owned = range(MEASURE_EVERY_S)
    world.ahead_ms = 8_000
    for number in owned:
        world.clocks.note_probe(number, world.now_ms, int(1_700_000_000_000 + world.now_ms), 5_001)
    assert abs(world.clocks.ahead_ms(3) - 8_000) <= 3
    for _ in owned:
        world.now_ms += 999
        world.clocks.step(owned)
    assert world.sent == []
    for _ in owned:  # there are no more probes
        world.now_ms += 1_000
        world.clocks.step(owned)
    assert sorted(one["partition"] for one in world.sent) == [*owned]


def test_deadlines_by_the_callers_clock() -> None:
    at = 1_700_000_000_000
    given = {HEADER_DEADLINE: b"%d" % (at + 3_000)}
    never = {HEADER_DEADLINE: b"9" * 18}
    for ahead in (0, 8_000, -8_000):
        assert deadline_ms({}, at, ahead) == at + ahead + DEADLINE_DEFAULT_MS
        assert deadline_ms(given, at, ahead) == at + 3_000 + max(0, ahead)
        assert deadline_ms(never, at, ahead) == at + ahead + DEADLINE_MAX_MS
