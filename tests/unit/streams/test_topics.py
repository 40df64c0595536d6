"""Questions to Kafka while brokers come and go."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from readstates.schemas.events import EVENT_BYTES_MAX
from readstates.streams.config import Settings
from readstates.streams.errors import KafkaAwayError, TopicError
from readstates.streams.kafka import topics

LIBRDKAFKA_BATCH_BYTES = 1_000_000  # its default `batch.size`


class Admin:
    """Answers each `describe_topics` with the next of these error codes."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.asked = 0

    def describe_topics(self, _topics: Any, request_timeout: float) -> dict[str, Future[Any]]:
        self.asked += 1
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        future: Future[Any] = Future()
        future.set_exception(KafkaException(KafkaError(code)))
        return {"updates": future}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "AWAY_PAUSE_S", 0)


def test_a_controller_that_is_away_is_asked_again() -> None:
    admin = Admin(KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(TopicError, match="Run: readstates init"):
        topics.describe(admin, "updates")
    assert admin.asked == 3


def test_one_that_stays_away_is_not_taken_for_a_missing_topic() -> None:
    with pytest.raises(KafkaAwayError, match="did not answer within 0 s") as caught:
        topics.described(Admin(KafkaError._TIMED_OUT), "updates", patience_s=0)
    assert "init" not in str(caught.value)


@pytest.mark.parametrize(
    ("topic", "setting", "bad", "good"),
    [
        ("queries", "retention.ms", "60000", ("120000", "600000", "-1")),
        ("dead-letters", "retention.bytes", "-1", ("0", "1", str(1 << 40))),
        ("updates", "retention.ms", "1000", ("604800000", "-1")),
        ("updates", "min.insync.replicas", "1", ("2", "3")),
        ("updates", "min.insync.replicas", "4", ("2", "3")),
        ("queries", "cleanup.policy", "compact", ("delete",)),
    ],
)
def test_bounds_of_topics(topic: str, setting: str, bad: str, good: tuple[str, ...]) -> None:
    replicas = dict.fromkeys(topics.topics_of(Settings()), 3)
    needed = topics.needed(Settings(), topics.BATCH_BYTES_MAX, replicas)
    rule = needed[f"read-states.{topic}"][setting]
    assert not rule.holds(bad)
    assert all(map(rule.holds, (*good, rule.value)))


def test_a_batch_of_a_client_with_defaults_is_taken() -> None:
    """A broker takes or refuses a batch whole; librdkafka makes them up to `batch.size` bytes."""
    settings = Settings()
    for topic in (settings.updates_topic, settings.queries_topic):
        taken = int(topics.wanted(settings, 1)[topic]["max.message.bytes"])
        assert taken >= LIBRDKAFKA_BATCH_BYTES
        assert taken >= EVENT_BYTES_MAX + topics.HEADERS_BYTES
