"""The history of epochs in Kafka: a compacted topic of one partition.

It is small: one record of less than a KiB for each epoch, and a new epoch begins only when the
partitions or the topic change. So it is read whole each time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from readstates.schemas.epoch_history import (
    Epoch,
    History,
    decode_epoch,
    encode_epoch,
    key_of,
)

from ..config import Settings
from ..errors import EpochsTopicError
from .topics import RIGHTS

TIMEOUT_S = 15.0
POLL_S = 1.0
PAUSE_S = 0.2  # before a topic whose leader is not known yet is asked again, within TIMEOUT_S
NO_LEADER_YET = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
}


def read_epochs(settings: Settings) -> History:
    """The epochs of this keyspace that the topic knows, by number.

    Raises EpochsTopicError if the topic does not exist, cannot be read, or does not answer within
    TIMEOUT_S, and HistoryError if a record is no epoch. Costs about five requests.
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
        return _read(settings, consumer)
    except KafkaException as exc:
        raise _refused(settings, "read", exc.args[0]) from exc
    finally:
        consumer.close()


def _read(settings: Settings, consumer: Consumer) -> History:
    name, place = settings.epochs_topic, TopicPartition(settings.epochs_topic, 0)
    topic = consumer.list_topics(name, timeout=TIMEOUT_S).topics[name]
    if topic.error is not None and topic.error.code() not in NO_LEADER_YET:
        raise _refused(settings, "read", topic.error)
    start, end = _bounds(consumer, place)
    found: History = {}
    if start >= end:
        return found
    consumer.assign([TopicPartition(name, 0, start)])
    until, position = time.monotonic() + TIMEOUT_S, start
    while position < end:
        message = consumer.poll(POLL_S)
        if message is None:
            if time.monotonic() > until:
                raise EpochsTopicError(f"{name} was not read within {TIMEOUT_S:g} s: try it again")
            continue
        error = message.error()
        if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            continue  # librdkafka asks for the coordinator of a group that is never joined
        if error is not None:
            raise _refused(settings, "read", error)
        position = (message.offset() or 0) + 1
        key, value = message.key(), message.value()
        epoch = decode_epoch(key, value, settings.cassandra_keyspace) if key and value else None
        if epoch is not None:
            found[epoch.epoch] = epoch
    return found


def _bounds(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
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


def write_epochs(settings: Settings, epochs: Iterable[Epoch]) -> None:
    """Write these epochs into the topic. Raises EpochsTopicError unless the brokers have them all.

    An epoch that is there already is written again, which changes nothing.
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

    def delivered(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failures.append(error)

    try:
        for epoch in epochs:
            key = key_of(settings.cassandra_keyspace, epoch.epoch)
            value = encode_epoch(epoch)
            producer.produce(settings.epochs_topic, value, key, partition=0, on_delivery=delivered)
    except KafkaException as exc:
        raise _refused(settings, "written", exc.args[0]) from exc
    left = producer.flush(TIMEOUT_S + 1)
    if failures:
        raise _refused(settings, "written", failures[0])
    if left:
        raise EpochsTopicError(f"{settings.epochs_topic} did not take {left} records: try it again")


def _refused(settings: Settings, what: str, error: object) -> EpochsTopicError:
    return EpochsTopicError(
        f"topic {settings.epochs_topic}, which keeps the history of epochs, cannot be {what}: "
        f"{error}. If it does not exist, run: readstates init. {RIGHTS}"
    )
