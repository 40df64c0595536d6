"""The proof: a fold of the whole log by the oracle, held against every row in Cassandra.

The oracle (`ops/proof/oracle.py`) shares nothing with the service, and a consumer of its own reads
the log.
"""

from __future__ import annotations

import time

import click
from confluent_kafka import Consumer, TopicPartition

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings

from ..proof.oracle import Oracle
from .progress import Progress

DRAIN_TIMEOUT_S = 120.0
READ_TIMEOUT_S = 30.0  # without a record of the log
SHOW_EVERY = 1000  # records between two calls of the progress


def log_ends(settings: Settings, partitions: int) -> dict[int, int]:
    """End offsets of the updates topic, by partition."""
    consumer = Consumer(settings.librdkafka(**{"group.id": "demo-ends"}))
    try:
        return {
            number: consumer.get_watermark_offsets(
                TopicPartition(settings.updates_topic, number), timeout=10
            )[1]
            for number in range(partitions)
        }
    finally:
        consumer.close()


def wait_durable(settings: Settings, ends: dict[int, int], progress: Progress) -> None:
    """Until the group's committed offsets are the log's ends."""
    end = time.monotonic() + DRAIN_TIMEOUT_S
    consumer = Consumer(settings.librdkafka(**{"group.id": settings.kafka_group}))
    places = [TopicPartition(settings.updates_topic, number) for number in ends]
    try:
        while True:
            found = {p.partition: p.offset for p in consumer.committed(places, timeout=10)}
            if found == ends:
                return
            if time.monotonic() > end:
                raise click.ClickException(f"not all durable: committed {found}, ends {ends}")
            left = sum(ends.values()) - sum(max(0, offset) for offset in found.values())
            progress(f"{left:,} updates are not committed yet")
            time.sleep(0.1)
    finally:
        consumer.close()


def fold_log(settings: Settings, ends: dict[int, int], progress: Progress) -> Oracle:
    """The log from its beginning to `ends`, read by a plain consumer, into the oracle."""
    oracle = Oracle()
    consumer = Consumer(
        settings.librdkafka(**{"group.id": "demo-oracle", "enable.auto.commit": False})
    )
    consumer.assign([TopicPartition(settings.updates_topic, number, 0) for number in ends])
    total = left = sum(ends.values())
    until = time.monotonic() + READ_TIMEOUT_S
    try:
        while left:
            for message in consumer.consume(SHOW_EVERY, 1.0):
                offset = message.offset()
                if message.error() is None and offset is not None:
                    oracle.apply(message.key(), message.value(), offset)
                    left -= 1
                    until = time.monotonic() + READ_TIMEOUT_S
            if time.monotonic() > until:
                raise click.ClickException(f"{left:,} records of the log could not be read")
            progress(f"{total - left:,} of {total:,} records of the log are folded")
    finally:
        consumer.close()
    return oracle


def compare(store: Store, oracle: Oracle, progress: Progress) -> tuple[int, list[str]]:
    """Every row of Cassandra against the oracle, both ways; the differences in words."""
    expected = {
        (user_id, *row[:2]): row for user_id in oracle.users for row in oracle.stored(user_id)
    }
    count, differences = len(expected), []
    for user_id, row in store.read_all():
        wanted = expected.pop((user_id, *row[:2]), None)
        if wanted != row:
            differences.append(f"user {user_id}: Cassandra has {row}, expected {wanted}")
        progress(f"{count - len(expected):,} of {count:,} read states are compared")
    differences += [f"user {key[0]}: missing {row}" for key, row in expected.items()]
    return count, differences
