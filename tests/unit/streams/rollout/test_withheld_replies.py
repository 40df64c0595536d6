"""Replies that a worker does not send because of a candidate: kept, and sent if need be."""

from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka import KafkaError

from readstates.schemas.headers import ReplyAddress
from readstates.schemas.rollout import Candidate
from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.kafka import withheld_replies as module
from readstates.streams.kafka.delivery import Delivery
from readstates.streams.kafka.reply_producer import ReplyProducer

RUN = "0123456789abcdef"
TOPIC = "read-states.replies.a"
ADDRESS = ReplyAddress(TOPIC, None, b"7", "plain")
CANDIDATE = Candidate("b", 5000, True, RUN)


class Producer:
    def __init__(self) -> None:
        self.now = self
        self.sent: list[tuple[Any, ...]] = []
        self.full = False

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int = -1,
        *,
        headers: list[tuple[str, bytes]],
        on_delivery: Any,
    ) -> None:
        if self.full:
            raise BufferError("full")
        self.sent.append((topic, value, key, partition, headers))

    def note_failure(self, error: KafkaError, topic: str, partition: int | None) -> None: ...


class Split:
    """Withholds what it is told to."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate: Candidate | None = candidate

    def withheld(self, _key: bytes, _partition: int) -> Candidate | None:
        return self.candidate


class World:
    """A ReplyProducer whose producers are lists, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, role: str = "live") -> None:
        self.producers: dict[str, Producer] = {}
        delivery = Delivery(Settings())
        monkeypatch.setattr(delivery, "producer", self._producer)
        self.replies = ReplyProducer(Settings(role=role), delivery)
        self.split = Split(CANDIDATE)
        self.replies.split = self.split

    def _producer(self, name: str, _config: dict[str, Any], _topics: Any = None) -> Producer:
        return self.producers.setdefault(name, Producer())

    def reply(self, body: bytes = b"{}", partition: int = 3, seconds: float = 60) -> None:
        deadline_ms = int((time.time() + seconds) * 1000)
        self.replies.reply(ADDRESS, b"5", body, deadline_ms, partition)

    def sent(self, name: str) -> list[tuple[Any, ...]]:
        return self.producers[name].sent if name in self.producers else []


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def outcome(name: str) -> float:
    return float(metrics.WITHHELD_REPLIES[name]._value.get())


def test_it_goes_to_the_shadow_topic_with_the_clients_headers_and_the_role(world: World) -> None:
    world.reply(b"1")
    world.replies.error(ADDRESS, b"5", 5, "overloaded", "x", partition=2)
    assert world.sent("replies") == []
    first, second = world.sent("shadow")
    correlation, role = ("kafka_correlationId", b"7"), ("read-states-role", b"live")
    assert first == ("read-states.shadow.b", b"1", b"5", 3, [correlation, role])
    assert second[3:] == (2, [("read-states-error", b"overloaded"), correlation, role])


def test_what_the_split_lets_through_is_sent_and_nothing_is_kept(world: World) -> None:
    world.split.candidate = None
    world.reply()
    assert len(world.sent("replies")) == 1
    assert world.sent("shadow") == []
    world.replies.withheld.release("b", {3})
    assert len(world.sent("replies")) == 1


def test_probes_are_answered_whatever_the_split_says(world: World) -> None:
    address = ReplyAddress("read-states.probes", None, b"7", "plain")
    world.replies.reply(address, b"-5", b"{}", int(time.time() * 1000) + 1000, 3)
    assert len(world.sent("replies")) == 1


def test_without_comparison_there_is_no_shadow(world: World) -> None:
    world.split.candidate = CANDIDATE._replace(compares=False)
    world.reply()
    assert world.sent("shadow") == []
    world.replies.withheld.release("b", {3})
    assert len(world.sent("replies")) == 1


def test_what_a_silent_candidate_was_to_answer_goes_to_the_clients_once(world: World) -> None:
    for partition in (1, 2, 3):
        world.reply(b"%d" % partition, partition)
    world.reply(b"late", 1, seconds=0)
    world.replies.withheld.release("other", {1, 2, 3})
    assert world.sent("replies") == []
    world.replies.withheld.release("b", {1, 2})
    assert [(one[0], one[1]) for one in world.sent("replies")] == [(TOPIC, b"1"), (TOPIC, b"2")]
    world.replies.withheld.release("b", {1, 2, 3})
    assert [one[1] for one in world.sent("replies")] == [b"1", b"2", b"3"]


def test_nothing_is_held_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    world.reply(b"old")
    now += module.HELD_S + 0.1
    world.reply(b"new")
    world.replies.withheld.forget_old()
    monkeypatch.setattr(module, "HELD_BYTES_MAX", 3)
    before = outcome("dropped")
    world.reply(b"")
    assert outcome("dropped") == before, "the old one takes no room any more"
    world.replies.withheld.release("b", {3})
    assert [one[1] for one in world.sent("replies")] == [b"new", b""]


def test_what_was_held_too_long_is_not_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    world.reply(b"old")
    now += module.HELD_S + 0.1
    world.replies.withheld.release("b", {3})
    assert world.sent("replies") == []


def test_the_oldest_go_first_when_too_many_bytes_are_held(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_BYTES_MAX", 10)
    before = outcome("dropped")
    for body in (b"aaaa", b"bbbb", b"cccc"):
        world.reply(body)
    world.replies.withheld.release("b", {3})
    assert [one[1] for one in world.sent("replies")] == [b"bbbb", b"cccc"]
    assert outcome("dropped") == before + 1


def test_a_candidate_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, "candidate")
    world.reply()
    world.replies.withheld.release("b", {3})
    assert world.sent("replies") == []
    assert world.sent("shadow")[0][4][-1] == ("read-states-role", b"candidate")


def test_a_shadow_that_has_no_room_concerns_no_client(world: World) -> None:
    world.reply()
    world.producers["shadow"].full = True
    before = outcome("shadow_failed")
    world.reply(b"second")
    assert outcome("shadow_failed") == before + 1
    world.replies.withheld.release("b", {3})
    assert len(world.sent("replies")) == 2


def test_a_shadow_topic_is_no_reply_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = Delivery(Settings())
    monkeypatch.setattr(delivery, "producer", lambda *_: Producer())
    replies = ReplyProducer(Settings(reply_topics=".*"), delivery)
    assert replies.allowed("read-states.shadows")
    assert not replies.allowed("read-states.shadow.b")
    assert not replies.allowed("read-states.rollout")
