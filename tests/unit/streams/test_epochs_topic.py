"""A small topic, such as that of the history of epochs, in the moment after it was created."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from readstates.streams.kafka import whole_topic

PLACE = TopicPartition("epochs", 0)


class Asked:
    """A consumer whose broker refuses with these errors, one after another, before it answers."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)

    def get_watermark_offsets(self, _place: TopicPartition, timeout: float) -> tuple[int, int]:
        if self.errors:
            raise KafkaException(KafkaError(self.errors.pop(0)))
        return 3, 5


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_topic, "PAUSE_S", 0)


def bounds(*errors: int) -> Any:
    consumer: Any = Asked(*errors)
    return whole_topic.bounds(consumer, PLACE)


def test_a_leader_that_is_not_known_yet_is_waited_for() -> None:
    moves = KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE
    assert bounds(*moves) == (3, 5)


def test_what_the_brokers_refuse_is_not_asked_again() -> None:
    with pytest.raises(KafkaException):
        bounds(KafkaError.TOPIC_AUTHORIZATION_FAILED)
