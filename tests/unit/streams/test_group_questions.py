"""Questions that nobody answers are asked with other clients; a topic made anew is no obstacle."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.errors import EpochError
from readstates.streams.kafka import group_questions as module
from readstates.streams.kafka.group_consumer import TopicPartition
from readstates.streams.kafka.group_questions import RENEW_AFTER, Questions

SETTINGS = Settings()
UPDATES, QUERIES = (TopicPartition(name, 0) for name in (SETTINGS.updates_topic, "q"))
AWAY = KafkaException(KafkaError(KafkaError._TIMED_OUT))
FENCED = KafkaError(KafkaError.FENCED_LEADER_EPOCH)


class World:
    """Clients that are numbered; those in `silent` get no answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        self.silent: set[int] = set()
        self.fenced: set[int] = set()  # those that send an old leader epoch, and go on with it
        self.ids = {UPDATES.topic: "1", QUERIES.topic: "1"}
        self.asked: list[int] = []
        self.closed: list[int] = []
        self.refused: list[Exception] = []
        monkeypatch.setattr(module, "AdminClient", lambda *_args, **_more: Admin(self))
        monkeypatch.setattr(module, "Consumer", lambda *_args, **_more: Consumer(self))
        self.questions = Questions(SETTINGS, self.refused.append)

    def answer(self, number: int, value: object) -> Future[Any]:
        future: Future[Any] = Future()
        if number in self.silent:
            future.set_exception(AWAY)
        else:
            future.set_result(value)
        return future


class Consumer:
    def __init__(self, world: World) -> None:
        self.world, self.number = world, world.made

    def committed(self, asked: list[Any], timeout: float) -> list[Any]:
        return [SimpleNamespace(error=None, offset=-1) for _ in asked]

    def offsets_for_times(self, asked: list[Any], timeout: float) -> list[Any]:
        error = FENCED if self.number in self.world.fenced else None
        return [
            SimpleNamespace(topic=one.topic, partition=one.partition, offset=5, error=error)
            for one in asked
        ]

    def close(self) -> None:
        self.world.closed.append(self.number)


class Admin:
    def __init__(self, world: World) -> None:
        self.world, self.number = world, world.made
        world.made += 1

    def describe_topics(self, topics: Any, request_timeout: float) -> dict[str, Future[Any]]:
        self.world.asked.append(self.number)
        ids = self.world.ids
        return {
            name: self.world.answer(self.number, SimpleNamespace(topic_id=ids[name]))
            for name in topics.topic_names
        }


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "TopicCollection", lambda names: SimpleNamespace(topic_names=names))
    return World(monkeypatch)


async def test_other_clients_ask_in_the_end(world: World, caplog: pytest.LogCaptureFixture) -> None:
    renewed = metrics.CLIENTS_RENEWED.labels("questions")._value
    before = renewed.get()
    world.silent = {0, 1}
    for _ in range(2 * RENEW_AFTER):
        with pytest.raises(TimeoutError):
            await world.questions.check_topic()
    for _ in range(2 * RENEW_AFTER):
        await world.questions.check_topic()
    assert world.asked == [0] * RENEW_AFTER + [1] * RENEW_AFTER + [2] * 2 * RENEW_AFTER
    assert world.closed == [0, 1]
    assert renewed.get() == before + 2
    assert caplog.text.count("client_renewed client=questions") == 2
    assert not world.refused


async def test_a_question_without_an_answer_now_and_then_changes_nothing(world: World) -> None:
    for _ in range(2 * RENEW_AFTER):
        world.silent = {0}
        with pytest.raises(TimeoutError):
            await world.questions.check_topic()
        world.silent = set()
        await world.questions.check_topic()
    assert set(world.asked) == {0}


async def test_an_answer_of_another_kind_does_not_count(world: World) -> None:
    """A worker that opens partitions asks for the commits, then for the logs, in turn."""
    world.fenced = {0}
    place = [UPDATES]
    for _ in range(RENEW_AFTER):
        await world.questions.committed(place)
        with pytest.raises(TimeoutError):
            await world.questions.log_ranges(place)
    await world.questions.committed(place)
    assert await world.questions.log_ranges(place) == {UPDATES: (5, 5)}


async def test_queries_may_be_made_anew(world: World) -> None:
    """The worker reads the new topic: it goes on, also when it opens another partition."""
    for _ in range(2):
        assert await world.questions.log_ranges([UPDATES, QUERIES]) == {
            UPDATES: (5, 5),
            QUERIES: (5, 5),
        }
        world.ids[QUERIES.topic] += "1"
    assert not world.refused


async def test_updates_may_not(world: World) -> None:
    await world.questions.log_ranges([UPDATES, QUERIES])
    world.ids[UPDATES.topic] = "2"
    with pytest.raises(TimeoutError):
        await world.questions.log_ranges([UPDATES, QUERIES])
    (error,) = world.refused
    assert isinstance(error, EpochError)
