"""What the campaign reads from Kafka when the load is off, with plain clients."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from readstates.streams.config import Settings

from ..proof.mirror import told_by
from .mirrors import ToldRecord
from .proof import NUMBER, LogRecord

TIMEOUT_S = 30.0
READ = 2000  # records at once


class NotDurableError(Exception):
    """The group's committed offsets did not reach the log's ends."""


class RecordsGoneError(Exception):
    """A topic does not have its first records any more, so nothing can be proved with it."""


def ends(
    consumer: Consumer, topic: str, partitions: int, timeout_s: float = TIMEOUT_S
) -> list[int]:
    """End offsets by partition; `timeout_s` for each. Raises KafkaException."""
    return [
        consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=timeout_s)[1]
        for n in range(partitions)
    ]


def wait_durable(settings: Settings, partitions: int, timeout_s: float) -> float:
    """Until all of the log is committed; the seconds it took. Raises NotDurableError."""
    begin = time.monotonic()
    consumer = Consumer(settings.librdkafka(**{"group.id": settings.kafka_group, "log_level": 2}))
    places = [TopicPartition(settings.updates_topic, n) for n in range(partitions)]
    try:
        wanted = ends(consumer, settings.updates_topic, partitions)
        while True:
            found = [place.offset for place in consumer.committed(places, timeout=TIMEOUT_S)]
            if found == wanted:
                return time.monotonic() - begin
            if time.monotonic() - begin > timeout_s:
                raise NotDurableError(
                    f"after {timeout_s:.0f} s committed {found}, the log ends at {wanted}"
                )
            time.sleep(0.2)
    finally:
        consumer.close()


def log_records(settings: Settings, partitions: int) -> Iterator[LogRecord]:
    """The updates topic from its beginning to its end. Raises RecordsGoneError."""
    for message in _read(settings, settings.updates_topic, partitions):
        headers = dict(message.headers() or [])
        yield LogRecord(
            _int(message.partition()),
            _int(message.offset()),
            message.key(),
            message.value(),
            int(headers.get(NUMBER, -1)),
        )


def dead_letters(settings: Settings, partitions: int) -> Iterator[LogRecord]:
    """Dead letters, each with the place of its original."""
    for message in _read(settings, settings.dead_letters_topic, partitions):
        headers = dict(message.headers() or [])
        yield LogRecord(
            int(headers["partition"]), int(headers["offset"]), message.key(), message.value()
        )


def changes(
    settings: Settings, partitions: int, in_doubt: Callable[[float], bool]
) -> Iterator[ToldRecord]:
    """The change feed from its beginning to its end.

    `in_doubt`: whether there was a zombie at a time, in seconds since the epoch. Raises
    RecordsGoneError.
    """
    for message in _read(settings, settings.changes_topic, partitions):
        headers = dict(message.headers() or [])
        told = told_by(message.value() or b"", headers)
        yield ToldRecord(_int(message.partition()), told, in_doubt(message.timestamp()[1] / 1000))


def append(settings: Settings, topic: str, count: int) -> TopicPartition:
    """More updates into one partition; returns the place behind the last of them."""
    placed: list[TopicPartition] = []

    def delivered(error: object, message: Message) -> None:
        assert error is None, error
        placed.append(TopicPartition(topic, _int(message.partition()), _int(message.offset()) + 1))

    producer = Producer(settings.librdkafka(partitioner="murmur2_random", acks="all"))
    for message_id in range(1, count + 1):
        event = {"type": "ack", "user_id": 1, "channel_id": 1, "message_id": message_id}
        producer.produce(topic, json.dumps(event), b"1", on_delivery=delivered)
    producer.flush(TIMEOUT_S)
    return max(placed, key=lambda place: place.offset)


def _read(settings: Settings, topic: str, partitions: int) -> Iterator[Message]:
    consumer = Consumer(
        settings.librdkafka(
            **{
                "group.id": "chaos-proof",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "log_level": 2,
            }
        )
    )
    try:
        for place in (TopicPartition(topic, n) for n in range(partitions)):
            first = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[0]
            if first:
                raise RecordsGoneError(f"{topic}, partition {place.partition} begins at {first}")
        left = dict(enumerate(ends(consumer, topic, partitions)))
        consumer.assign([TopicPartition(topic, n, 0) for n in range(partitions)])
        while left:  # records are not counted, because the ends of transactions have offsets too
            for message in consumer.consume(READ, 1.0):
                error, number = message.error(), _int(message.partition())
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    at = _int(message.offset())
                    left = {n: end for n, end in left.items() if n != number or end > at}
    finally:
        consumer.close()


def _int(value: int | None) -> int:
    assert value is not None
    return value
