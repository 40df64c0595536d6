"""The backlog that the ingest bench folds, and where in the log it begins.

The log has two parts. The warm part has an ack of each user in each of its channels: a contender
that has folded it has all users resident. The backlog after it has the acks and mentions of
`ops/proof/traffic.py`: users and channels by Zipf's law, sessions, crowds mentioned at once, half
of the IDs as strings. The other event forms are left out: each peer would need the whole fold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import islice

import orjson
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from readstates.streams.config import Settings
from readstates.streams.worker.commits import metadata_of

from ..proof.traffic import Record, Traffic

PARTITIONS = 8
PLAIN = (b'{"type":"ack"', b'{"type":"mention"')
NOT_PLAIN = (b'"manual"', b'"flags"')
SEED = 1


def warm_part(traffic: Traffic) -> Iterator[Record]:
    """Make an ack in each channel of each user."""
    for user_id in traffic.user_ids:
        for channel_id in traffic.channels_of(user_id):
            event = {"type": "ack", "user_id": user_id, "channel_id": channel_id, "message_id": 1}
            yield Record(b"%d" % user_id, orjson.dumps(event))


def backlog(traffic: Traffic, count: int) -> Iterator[Record]:
    """Make `count` plain acks and mentions."""
    plain = (
        record
        for record in traffic.updates(count * 10)
        if record.value is not None
        and record.value.startswith(PLAIN)
        and not any(word in record.value for word in NOT_PLAIN)
    )
    return islice(plain, count)


def produce(settings: Settings, records: Iterable[Record]) -> None:
    """Send records to the updates topic; returns when the broker has them."""
    more = {
        "partitioner": "murmur2_random",
        "linger.ms": 20,
        "queue.buffering.max.messages": 1_000_000,
    }
    producer = Producer(settings.librdkafka(**more))
    for record in records:
        while True:
            try:
                producer.produce(settings.updates_topic, record.value, record.key)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush(60)


class Log:
    """The updates topic as a group sees it."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._places = [TopicPartition(settings.updates_topic, p) for p in range(PARTITIONS)]
        self._consumer = Consumer(settings.librdkafka(**{"group.id": group}))

    def ends(self) -> list[int]:
        """The next offset of each partition."""
        return [self._consumer.get_watermark_offsets(p, timeout=10)[1] for p in self._places]

    def committed(self) -> list[int]:
        """The group's committed offsets; 0 if there is none, or no answer yet."""
        try:
            found = self._consumer.committed(self._places, timeout=10)
        except KafkaException:  # the coordinator of a new group is still loading
            return [0] * PARTITIONS
        return [max(0, place.offset) for place in found]

    def begin_at(self, offsets: list[int]) -> None:
        """Commit these for the group, like an owner that stopped there cleanly."""
        places = [
            TopicPartition(place.topic, place.partition, offset, metadata_of(offset, clean=True))
            for place, offset in zip(self._places, offsets, strict=True)
        ]
        while self.committed() != offsets:
            with contextlib.suppress(KafkaException):
                self._consumer.commit(offsets=places, asynchronous=False)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()
