"""Refused replies, with producers and an admin client that a test holds in its hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException

from readstates.schemas.headers import HEADER_ERROR, ReplyAddress
from readstates.schemas.read_state import Row
from readstates.schemas.replies import Answer, encode_reply
from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.kafka import refused_replies
from readstates.streams.kafka.delivery import MESSAGE_BYTES_MAX, Delivery
from readstates.streams.kafka.reply_producer import ReplyProducer

TOPIC = "read-states.replies.a"
ADDRESS = ReplyAddress(TOPIC, None, b"7", "plain")
TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
BIG = 2**62
ROWS: list[Row] = [(0, BIG + n, BIG, 0, 0, 0, 0, 0, BIG, b"") for n in range(100)]
BODY = encode_reply(5, Answer(BIG, True, ROWS), False)


class Record(NamedTuple):
    """As a delivery report has it, which knows no headers."""

    produced: dict[str, Any]

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return 3

    def key(self) -> bytes | None:
        key: bytes | None = self.produced["key"]
        return key

    def value(self) -> bytes:
        value: bytes = self.produced["value"]
        return value


class Producer:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.sent: list[dict[str, Any]] = []
        self.failures: list[int] = []  # codes that were noted
        self.now = self

    def note_failure(self, error: KafkaError, topic: str, partition: int | None) -> None:
        assert (topic, partition) in {(TOPIC, 3), (TOPIC, None)}
        self.failures.append(error.code())

    def produce(
        self, topic: str, value: bytes, key: bytes | None, partition: int = -1, **more: Any
    ) -> None:
        if len(value) > MESSAGE_BYTES_MAX:
            raise KafkaException(TOO_LARGE)
        self.sent.append({"value": value, "key": key, "partition": partition, **more})

    def report(self, error: KafkaError = TOO_LARGE) -> None:
        """The broker refuses what was sent last."""
        produced = self.sent[-1]
        produced["on_delivery"](error, Record(produced))


class World:
    """A ReplyProducer whose surroundings are lists."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.producers: list[Producer] = []
        self.requests: list[Future[Any]] = []
        self.delivery = Delivery(Settings())
        monkeypatch.setattr(self.delivery, "producer", self._producer)
        monkeypatch.setattr(refused_replies, "AdminClient", lambda _: self)
        self.replies = ReplyProducer(Settings(), self.delivery)

    def _producer(self, _name: str, config: dict[str, Any], _topics: Any = None) -> Producer:
        self.producers.append(Producer(config))
        return self.producers[-1]

    def describe_configs(self, resources: list[Any], **_: Any) -> dict[Any, Future[Any]]:
        self.requests.append(Future())
        return {resources[0]: self.requests[-1]}

    def reply(self, seconds: float = 60, body: bytes = BODY) -> None:
        deadline_ms = int((time.time() + seconds) * 1000)
        self.replies.reply(ADDRESS, b"5", body, deadline_ms)

    def refuse_twice(self) -> None:
        """In its batch, and alone."""
        self.producers[0].report()
        self.producers[1].report()

    def bound_is(self, size: int) -> None:
        self.requests[-1].set_result({"max.message.bytes": SimpleNamespace(value=str(size))})

    def errors(self) -> list[dict[str, Any]]:
        """The errors that went out by the first producer."""
        sent = [one for one in self.producers[0].sent if one["headers"][0][0] == HEADER_ERROR]
        assert all(one["key"] == b"5" for one in sent)
        assert all(("kafka_correlationId", b"7") in one["headers"] for one in sent)
        return [orjson.loads(one["value"])["error"] for one in sent]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def failures() -> Callable[[], float]:
    before = metrics.REPLY_FAILURES._value.get()
    return lambda: metrics.REPLY_FAILURES._value.get() - before


def test_a_refused_reply_goes_again_in_a_batch_of_its_own(
    world: World, failures: Callable[[], float]
) -> None:
    world.reply()
    world.producers[0].report()
    again = world.producers[1]
    assert again.config["batch.num.messages"] == 1
    assert again.sent[0]["partition"] == 3
    assert again.sent[0]["value"] == BODY
    assert again.sent[0]["headers"] == [("kafka_correlationId", b"7")]
    assert (failures(), world.requests) == (0, [])


def test_the_limit_follows_from_the_bound_of_the_topic(
    world: World, failures: Callable[[], float]
) -> None:
    world.reply()
    world.refuse_twice()
    world.bound_is(10_000)
    (error,) = world.errors()
    assert error["code"] == "reply_too_large"
    assert f"max.message.bytes (10000) of topic {TOPIC}" in error["message"]
    assert 30 < error["limit"] < 45  # rows of 232 bytes, an eighth free
    assert failures() == 1


@pytest.mark.parametrize("bound", [None, 10**6])
def test_half_of_its_size_if_the_bound_does_not_say(world: World, bound: int | None) -> None:
    """The worker may not read it, or it was raised a moment ago."""
    world.reply()
    world.refuse_twice()
    if bound is None:
        code = KafkaError.TOPIC_AUTHORIZATION_FAILED
        world.requests[0].set_exception(KafkaException(KafkaError(code)))
    else:
        world.bound_is(bound)
    (error,) = world.errors()
    assert f"more than topic {TOPIC} allows" in error["message"]
    assert 30 < error["limit"] < 50


def test_halves_come_to_an_end(world: World) -> None:
    """A client that follows the advice gets to one read state, and then to an error without."""
    limits: list[Any] = [len(ROWS)]
    while limits[-1] is not None:
        body = encode_reply(5, Answer(BIG, True, ROWS[: limits[-1]]), False)
        world.reply(body=body)
        world.refuse_twice()
        if len(limits) == 1:
            world.requests[0].set_exception(KafkaException(KafkaError(-1)))
        limits.append(world.errors()[-1].get("limit"))
    assert limits[:-1] == sorted(set(limits[:-1]), reverse=True)
    assert limits[-2] in (1, 2)
    assert len(world.requests) == 1


def test_a_bound_is_asked_for_once_for_many_replies(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        world.reply()
        world.refuse_twice()
    assert len(world.requests) == 1
    world.bound_is(10_000)
    assert len(world.errors()) == 3
    later = time.monotonic() + refused_replies.BOUND_KNOWN_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    world.reply()
    world.refuse_twice()
    assert len(world.requests) == 2


def test_nothing_goes_out_after_the_deadline(
    world: World, failures: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q2."""
    world.reply(seconds=0)
    world.producers[0].report()
    assert (len(world.producers), failures()) == (1, 1)
    world.reply(seconds=60)
    world.producers[0].report()
    world.reply(seconds=60)
    world.refuse_twice()
    late = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: late)
    world.producers[1].report()
    world.bound_is(10_000)
    assert (world.errors(), failures()) == ([], 3)


def test_an_error_that_is_refused_makes_no_other_error(
    world: World, failures: Callable[[], float]
) -> None:
    world.replies.error(ADDRESS, b"5", 5, "overloaded", "x" * 500)
    world.refuse_twice()
    assert (world.requests, failures()) == ([], 1)
    assert [error["code"] for error in world.errors()] == ["overloaded"]


def test_what_librdkafka_itself_does_not_take(world: World, failures: Callable[[], float]) -> None:
    """REPLY_BYTES_MAX may be above its message.max.bytes."""
    many = [(*row[:1], BIG + n, *row[2:]) for n in range(50_000) for row in ROWS[:1]]
    body = encode_reply(5, Answer(BIG, True, many), False)
    world.reply(body=body)
    (error,) = world.errors()
    assert "the worker's producer (8388608)" in error["message"]
    assert error["limit"] == 10_000
    assert failures() == 1


def test_another_error_is_counted_and_not_tried_again(
    world: World, failures: Callable[[], float]
) -> None:
    world.reply()
    world.producers[0].report(KafkaError(KafkaError._MSG_TIMED_OUT))
    assert (len(world.producers), failures()) == (1, 1)
    world.reply()
    world.producers[0].report()
    world.producers[1].report(KafkaError(KafkaError._MSG_TIMED_OUT))
    assert (world.errors(), failures()) == ([], 2)


def test_nothing_is_sent_again_while_the_worker_stops(world: World) -> None:
    world.reply()
    world.delivery.close()
    world.producers[0].report()
    assert len(world.producers) == 1


def test_a_producer_that_may_be_stuck_hears_of_it(world: World) -> None:
    timed_out = KafkaError(KafkaError._MSG_TIMED_OUT)
    world.reply()
    world.producers[0].report(timed_out)
    assert world.producers[0].failures == [KafkaError._MSG_TIMED_OUT]
    world.reply()
    world.producers[0].report()
    world.producers[1].report(timed_out)
    assert world.producers[1].failures == [KafkaError._MSG_TIMED_OUT]
    assert len(world.producers[0].failures) == 1, "a reply that is too large says nothing"
