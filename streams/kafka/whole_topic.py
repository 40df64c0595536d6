"""Reads and writes small compacted topics of one partition, which are read as a whole each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from ..config import Settings

TIMEOUT_S = 15.0
POLL_S = 1.0
PAUSE_S = 0.2  # before a topic whose leader is not known yet is asked again, within TIMEOUT_S
NO_LEADER_YET = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
}
Refused = Callable[[str, object], Exception]  # what cannot be done, and why


def read_whole(settings: Settings, name: str, refused: Refused) -> list[Message]:
    """The records that a topic has now, in order. Costs about five requests.

    Raises what `refused` makes if the topic does not exist, cannot be read, or does not answer
    within TIMEOUT_S.
    """
    consumer = Consumer(
        settings.librdkafka(
            **{
                "group.id": settings.kafka_group,  # never joined
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
    )
    try:
        return _read(consumer, name, refused)
    except KafkaException as exc:
        raise refused("read", exc.args[0]) from exc
    finally:
        consumer.close()


def _read(consumer: Consumer, name: str, refused: Refused) -> list[Message]:
    topic = consumer.list_topics(name, timeout=TIMEOUT_S).topics[name]
    if topic.error is not None and topic.error.code() not in NO_LEADER_YET:
        raise refused("read", topic.error)
    start, end = bounds(consumer, TopicPartition(name, 0))
    found: list[Message] = []
    if start >= end:
        return found
    consumer.assign([TopicPartition(name, 0, start)])
    until, position = time.monotonic() + TIMEOUT_S, start
    while position < end:
        message = consumer.poll(POLL_S)
        if message is None:
            if time.monotonic() > until:
                raise refused("read", f"it did not answer within {TIMEOUT_S:g} s: try it again")
            continue
        error = message.error()
        if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            continue  # librdkafka asks for the coordinator of a group that is never joined
        if error is not None:
            raise refused("read", error)
        position = (message.offset() or 0) + 1
        found.append(message)
    return found


def bounds(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """The first offset and the end. A topic that was just created has no leader for a moment."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        try:
            start, end = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
        except KafkaException as exc:
            if exc.args[0].code() not in NO_LEADER_YET or time.monotonic() > until:
                raise
            time.sleep(PAUSE_S)
        else:
            return start, end


def write_whole(
    settings: Settings,
    name: str,
    records: Iterable[tuple[bytes, bytes | None]],
    refused: Refused,
) -> int:
    """Write records, each a key and a value; returns the largest of their offsets, or -1.

    Raises what `refused` makes unless the brokers have them all.
    """
    producer = Producer(
        settings.librdkafka(
            **{
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": int(TIMEOUT_S * 1000),
                "linger.ms": 0,
                "log_level": 0,
            }
        )
    )
    failures: list[KafkaError] = []
    last = -1

    def delivered(error: KafkaError | None, message: Message) -> None:
        nonlocal last
        if error is not None:
            failures.append(error)
        else:
            last = max(last, message.offset() or 0)

    try:
        for key, value in records:
            producer.produce(name, value, key, partition=0, on_delivery=delivered)
    except KafkaException as exc:
        raise refused("written", exc.args[0]) from exc
    left = producer.flush(TIMEOUT_S + 1)
    if failures:
        raise refused("written", failures[0])
    if left:
        raise refused("written", f"the brokers did not take {left} records: try it again")
    return last
