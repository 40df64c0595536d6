"""Who is asked about the topics: another client, if one does not get an answer."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import pytest
from confluent_kafka import KafkaError, KafkaException

from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.deviations import Found
from readstates.streams.errors import KafkaAwayError, TopicError
from readstates.streams.kafka import topic_check as module
from readstates.streams.kafka.topic_check import RENEW_AFTER, Seen, Topics
from readstates.streams.kafka.topics import AWAY_TIMEOUT_S, Described, Topic, topics_of

SETTINGS = Settings()
TOPIC = Topic(UUID(int=1), 4)


class Cluster:
    """Each client that is made gets the next number; only some get an answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.made = 0
        self.answers: set[int] = set()
        self.asked: list[int] = []
        self.error: type[TopicError] = KafkaAwayError
        self.knows_coordinator = {*range(1, 100)}
        monkeypatch.setattr(module, "connect_admin", lambda _settings: self._make())
        monkeypatch.setattr(module, "AdminClient", lambda *_args, **_more: self._make())
        monkeypatch.setattr(module, "look", self._look)
        monkeypatch.setattr(module, "strangers", self._strangers)
        monkeypatch.setattr(module, "judge", lambda _settings, _seen: iter(()))
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    def _make(self) -> int:
        self.made += 1
        return self.made

    def _look(self, client: Any, _settings: Settings, patience_s: float) -> Seen:
        self.asked.append(client)
        self.now_s += patience_s
        if client not in self.answers:
            raise self.error("away")
        return Seen({name: Described(TOPIC, 1) for name in topics_of(SETTINGS)}, {})

    def _strangers(self, client: Any, _settings: Settings, _timeout_s: float) -> list[Found]:
        if client not in self.knows_coordinator:
            raise KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))
        return []


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def test_each_try_at_a_start_has_a_client_of_its_own(cluster: Cluster) -> None:
    cluster.answers = {4}
    assert module.check(SETTINGS) == TOPIC
    assert cluster.asked == [1, 2, 3, 4]


def test_a_start_gives_up_in_the_end(cluster: Cluster) -> None:
    with pytest.raises(KafkaAwayError):
        module.check(SETTINGS)
    assert AWAY_TIMEOUT_S < cluster.now_s <= AWAY_TIMEOUT_S + 2 * module.TRY_S
    assert cluster.asked == list(range(1, cluster.made + 1))


def test_what_the_brokers_refuse_is_not_asked_again(cluster: Cluster) -> None:
    cluster.error = TopicError
    with pytest.raises(TopicError):
        module.check(SETTINGS)
    assert cluster.asked == [1]


def test_the_watch_asks_with_another_client_in_the_end(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    renewed = metrics.CLIENTS_RENEWED.labels("watch")._value
    before = renewed.get()
    topics = Topics(SETTINGS, TOPIC)
    for _ in range(2 * RENEW_AFTER):
        with pytest.raises(KafkaAwayError):
            topics.look()
    cluster.answers = {3}
    for _ in range(2 * RENEW_AFTER):
        assert topics.look() == ([], [])
    assert cluster.asked == [1] * RENEW_AFTER + [2] * RENEW_AFTER + [3] * 2 * RENEW_AFTER
    assert renewed.get() == before + 2
    assert caplog.text.count("client_renewed client=watch why='away'") == 2


def test_the_watch_asks_another_coordinator_in_the_end(cluster: Cluster) -> None:
    cluster.answers = {1, 2}
    cluster.knows_coordinator = {2}
    topics = Topics(SETTINGS, TOPIC)
    for _ in range(2 * RENEW_AFTER):
        assert topics.look() == ([], [])
    assert cluster.asked == [1] * RENEW_AFTER + [2] * RENEW_AFTER


def test_a_single_look_without_an_answer_changes_nothing(cluster: Cluster) -> None:
    topics = Topics(SETTINGS, TOPIC)
    for _ in range(3 * RENEW_AFTER):
        cluster.answers = set()
        with pytest.raises(KafkaAwayError):
            topics.look()
        cluster.answers = {1}
        topics.look()
    assert set(cluster.asked) == {1}
