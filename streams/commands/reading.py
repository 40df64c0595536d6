"""A reader of whole topics that joins no group and changes nothing."""

from __future__ import annotations

import os
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition

from ..config import Settings
from ..errors import TopicError
from ..kafka.topics import missing
from .options import RIGHTS

TIMEOUT_S = 15.0


class Reader(NamedTuple):
    """A consumer of committed records, with each partition's first and end offset."""

    consumer: Consumer
    ranges: dict[tuple[str, int], tuple[int, int]]  # topic, partition → first offset, end offset


def open_reader(settings: Settings, *topics: str, from_start: bool = False) -> Reader:
    """Read all partitions of these topics from their present end, or from their start.

    From the start, the consumer also reports each partition's end (`_PARTITION_EOF`). The caller
    closes it. Raises TopicError for a topic that does not exist.
    """
    consumer = Consumer(
        settings.librdkafka(
            **{
                "group.id": f"read-states-client-{os.urandom(8).hex()}",  # never joined
                "enable.auto.commit": False,
                "enable.partition.eof": from_start,
                "isolation.level": "read_committed",
                "log_level": 3,
            }
        )
    )
    ranges = {}
    try:
        for name in topics:
            topic = consumer.list_topics(name, timeout=TIMEOUT_S).topics[name]
            if topic.error is not None:
                is_gone = topic.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
                raise TopicError(
                    missing(name) if is_gone else f"topic {name}: {topic.error}. {RIGHTS}"
                )
            for number in sorted(topic.partitions):
                place = TopicPartition(name, number)
                ranges[name, number] = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
        consumer.assign(
            [
                TopicPartition(name, number, start if from_start else end)
                for (name, number), (start, end) in ranges.items()
            ]
        )
    except BaseException:
        consumer.close()
        raise
    return Reader(consumer, ranges)
