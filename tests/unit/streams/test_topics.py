"""Questions to Kafka while brokers come and go."""

from __future__ import annotations

import uuid
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from readstates.schemas.events import EVENT_BYTES_MAX
from readstates.streams.config import Settings
from readstates.streams.errors import KafkaAwayError, TopicError
from readstates.streams.kafka import topics
from readstates.streams.kafka.topic_check import Seen, judge

LIBRDKAFKA_BATCH_BYTES = 1_000_000  # its default `batch.size`


class Admin:
    """Answers each question with the next of these error codes; 0: with the settings."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.asked = 0

    def describe_topics(self, _topics: Any, request_timeout: float) -> dict[str, Future[Any]]:
        self.asked += 1
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        future: Future[Any] = Future()
        if code:
            future.set_exception(KafkaException(KafkaError(code)))
        else:
            future.set_result({"retention.ms": SimpleNamespace(value="5")})
        return {"updates": future}

    describe_configs = describe_topics


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "AWAY_PAUSE_S", 0)


def test_a_controller_that_is_away_is_asked_again() -> None:
    admin = Admin(KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(TopicError, match="run: readstates init"):
        topics.describe(admin, "updates")
    assert admin.asked == 3


def test_one_that_stays_away_is_not_taken_for_a_missing_topic() -> None:
    with pytest.raises(KafkaAwayError, match="did not answer within 0 s") as caught:
        topics.described(Admin(KafkaError._TIMED_OUT), "updates", patience_s=0)
    assert "init" not in str(caught.value)


def test_a_broker_that_has_not_heard_of_a_new_topic_is_asked_again() -> None:
    admin = Admin(KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._TRANSPORT, 0)
    assert topics.configs_of(admin, "updates") == {"retention.ms": "5"}
    assert admin.asked == 3


def test_the_watch_does_not_wait_for_it() -> None:
    admin = Admin(KafkaError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(TopicError, match="cannot read the settings of topic"):
        topics.configs_of(admin, "updates", patience_s=0)
    assert admin.asked == 1


@pytest.mark.parametrize(
    ("topic", "setting", "bad", "good"),
    [
        ("queries", "retention.ms", "60000", ("120000", "600000", "-1")),
        ("dead-letters", "retention.bytes", "-1", ("0", "1", str(1 << 40))),
        ("updates", "retention.ms", "1000", ("604800000", "-1")),
        ("updates", "min.insync.replicas", "1", ("2", "3")),
        ("updates", "min.insync.replicas", "4", ("2", "3")),
        ("queries", "cleanup.policy", "compact", ("delete",)),
        ("changes", "cleanup.policy", "compact", ("delete",)),
        ("changes", "message.timestamp.type", "CreateTime", ("LogAppendTime",)),
        ("changes", "retention.ms", "59999", ("60000", "3600000", "-1")),
        ("changes", "min.insync.replicas", "1", ("2", "3")),
        ("changes", "unclean.leader.election.enable", "true", ("false",)),
        ("changes", "max.message.bytes", "1000000", (str(1 << 20), str(1 << 23))),
    ],
)
def test_bounds_of_topics(topic: str, setting: str, bad: str, good: tuple[str, ...]) -> None:
    settings = Settings(changes="on")
    replicas = dict.fromkeys(topics.topics_of(settings), 3)
    needed = topics.needed(settings, topics.BATCH_BYTES_MAX, replicas)
    rule = needed[f"read-states.{topic}"][setting]
    assert not rule.holds(bad)
    assert all(map(rule.holds, (*good, rule.value)))


def test_the_feed_has_a_topic_only_if_it_is_on() -> None:
    off, on = Settings(), Settings(changes="on")
    assert topics.topics_of(on) == (*topics.topics_of(off), "read-states.changes")
    assert topics.wanted(on, 3).keys() - topics.wanted(off, 3).keys() == {"read-states.changes"}
    assert topics.wanted(on, 3)["read-states.changes"]["retention.ms"] == "3600000"


@pytest.mark.parametrize(
    ("partitions", "said"), [(None, "changes_deleted"), (3, "changes_partitions"), (4, "")]
)
def test_the_feeds_topic_is_looked_at(partitions: int | None, said: str) -> None:
    settings = Settings(changes="on")
    found = {
        name: topics.Described(topics.Topic(uuid.uuid4(), 4), 1)
        for name in topics.topics_of(settings)[:-1]
    }
    if partitions is not None:
        found[settings.changes_topic] = topics.Described(topics.Topic(uuid.uuid4(), partitions), 1)
    configs = {name: topics.wanted(settings, 1).get(name, {}) for name in found}
    names = [one.name for one in judge(settings, Seen(found, configs))]
    assert names == ([said] if said else [])


def test_a_batch_of_a_client_with_defaults_is_taken() -> None:
    """A broker takes or refuses a batch whole; librdkafka makes them up to `batch.size` bytes."""
    settings = Settings()
    for topic in (settings.updates_topic, settings.queries_topic):
        taken = int(topics.wanted(settings, 1)[topic]["max.message.bytes"])
        assert taken >= LIBRDKAFKA_BATCH_BYTES
        assert taken >= EVENT_BYTES_MAX + topics.HEADERS_BYTES
