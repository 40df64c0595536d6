"""When a producer is made anew: only if the brokers lead what it does not reach, and sparingly."""

from __future__ import annotations

import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from readstates.streams import metrics
from readstates.streams.kafka.lasting_producer import (
    ASK_S,
    RENEW_MAX_S,
    RENEW_MIN_S,
    RETIRED_S,
    LastingProducer,
)

TOPIC, OWN = "replies.a", "read-states.probes"
TIMED_OUT = KafkaError(KafkaError._MSG_TIMED_OUT)


class World:
    """Producers that are lists, brokers with leaders, and the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1_000.0
        self.leaders: dict[int, int] | Exception = {0: 1, 1: 2}
        self.topic_error: KafkaError | None = None
        self.asked = 0
        self.made: list[Producer] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        self.before = self._renewed()
        make = cast(Any, lambda: Producer(self))
        self.lasting: Any = LastingProducer("replies", {OWN}, make)

    def _renewed(self) -> float:
        return float(metrics.CLIENTS_RENEWED.labels("replies")._value.get())

    @property
    def renewed(self) -> int:
        """How often, by the metric."""
        count = int(self._renewed() - self.before)
        assert count == len(self.made) - 1
        assert self.lasting.now is self.made[-1]
        return count

    def fail(self, error: KafkaError = TIMED_OUT, partition: int | None = 0) -> None:
        """The present producer reports a failure."""
        self.made[-1].reports.append((error, partition))
        self.poll(0)

    def poll(self, after_s: float) -> None:
        self.now_s += after_s
        self.lasting.poll(0)


class Producer:
    def __init__(self, world: World) -> None:
        self.world = world
        self.reports: list[tuple[KafkaError, int | None]] = []  # that `poll` will run
        self.is_purged = False
        self.left = 0  # records in its queue
        world.made.append(self)

    def poll(self, _timeout_s: float) -> None:
        for error, partition in self.reports:
            self.world.lasting.note_failure(error, TOPIC, partition)
        self.reports.clear()

    def purge(self) -> None:
        self.is_purged = True
        self.reports += [(TIMED_OUT, 0)] * self.left

    def flush(self, _timeout_s: float) -> None:
        self.poll(0)

    def list_topics(self, topic: str, timeout: float) -> Any:
        self.world.asked += 1
        if isinstance(self.world.leaders, Exception):
            raise self.world.leaders
        places = {n: SimpleNamespace(leader=one) for n, one in self.world.leaders.items()}
        found = SimpleNamespace(error=self.world.topic_error, partitions=places)
        return SimpleNamespace(topics={topic: found})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_what_the_brokers_lead_and_it_does_not_reach(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.fail()
    assert world.renewed == 1
    (line,) = caplog.messages
    assert line.startswith(f"client_renewed client=replies why='topic {TOPIC}: Local: Message time")
    world.poll(1)
    assert world.renewed == 1


@pytest.mark.parametrize(
    ("leaders", "topic_error", "partition"),
    [
        ({0: -1, 1: 2}, None, 0),
        ({0: -1, 1: 2}, None, None),
        ({0: 1}, None, 1),  # there is no such partition
        ({}, KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), 0),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), None, 0),
    ],
    ids=["no leader", "no leader of one", "no such partition", "no topic", "no answer"],
)
def test_what_no_producer_could_deliver(
    world: World,
    leaders: dict[int, int] | Exception,
    topic_error: KafkaError | None,
    partition: int | None,
) -> None:
    world.leaders, world.topic_error = leaders, topic_error
    world.fail(partition=partition)
    assert (world.renewed, world.asked) == (0, 1)
    world.poll(ASK_S - 1)
    world.fail(partition=partition)
    assert world.asked == 1, "the brokers are not asked for each record"
    world.poll(2)
    world.leaders, world.topic_error = {0: 1, 1: 1}, None
    assert world.renewed == 0, "nothing has failed since"
    world.fail(partition=partition)
    assert world.renewed == 1


@pytest.mark.parametrize(
    "code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.TOPIC_AUTHORIZATION_FAILED]
)
def test_errors_of_another_cause(world: World, code: int) -> None:
    world.fail(KafkaError(code))
    assert (world.renewed, world.asked) == (0, 0)


def test_a_fatal_error(world: World) -> None:
    world.leaders = {}
    world.fail(KafkaError(KafkaError._FATAL), None)
    assert (world.renewed, world.asked) == (1, 0)


def test_it_is_made_anew_sparingly(world: World) -> None:
    at: list[float] = []
    while len(at) < 10:
        before = world.renewed
        world.fail()
        if world.renewed > before:
            at.append(world.now_s)
        world.poll(1)
    pauses = [b - a for a, b in pairwise(at)]
    expected = [min(RENEW_MIN_S * 2**n, RENEW_MAX_S) for n in range(len(pauses))]
    assert pauses == pytest.approx(expected, abs=ASK_S + 1)
    world.poll(2 * RENEW_MAX_S)
    world.fail()
    before = world.renewed
    world.poll(RENEW_MIN_S + 1)
    world.fail()
    assert world.renewed == before + 1, "after a while without failures, it is as at the beginning"


def test_the_old_one_may_still_deliver_and_is_given_up_later(world: World) -> None:
    world.fail()
    old = world.made[0]
    old.reports.append((TIMED_OUT, 0))
    world.poll(RENEW_MIN_S + 1)
    assert not old.reports, "it is polled"
    assert world.renewed == 1, "its failures are no news"
    assert not old.is_purged
    old.left = 3
    world.poll(RETIRED_S)
    assert old.is_purged
    assert not old.reports, "they are reported as failed"
    old.reports.append((TIMED_OUT, 0))
    world.poll(1)
    assert old.reports, "it is not polled any more"
    assert world.renewed == 1


def test_a_topic_that_was_made_anew(world: World) -> None:
    world.lasting.topic_made_anew("another")
    world.poll(0)
    assert world.renewed == 0
    world.lasting.topic_made_anew(OWN)
    world.poll(0)
    assert (world.renewed, world.asked) == (1, 0)
    world.lasting.topic_made_anew(OWN)
    world.poll(RENEW_MIN_S - 1)
    assert world.renewed == 1
    world.poll(2)
    assert world.renewed == 2, "it is not forgotten"


def test_no_producer_can_be_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise KafkaException(KafkaError(KafkaError._FATAL))

    monkeypatch.setattr(world.lasting, "_make", fail)
    world.fail()
    assert world.renewed == 0
