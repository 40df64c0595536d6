"""Queries that wait are bounded in bytes: a few thousand large ones must not fill the memory."""

from __future__ import annotations

from collections import Counter

from confluent_kafka import Producer

from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import deadline, encode, new_user

COUNT = 2_000  # far below QUERIES_WAITING_MAX (10,000)
CHANNELS = [str(10**18 + number) for number in range(1000)]


def test_many_large_queries_wait(service: Service) -> None:
    """Each waits for an update that never comes."""
    wire, user = service.wire, new_user()
    wire.get(user)
    seen = len(wire.arrived())
    body = {"type": "get", "channel_ids": CHANNELS, "after_offset": str(10**12)}
    value = encode(user, body)
    producer = Producer({"bootstrap.servers": wire.bootstrap, "partitioner": "murmur2_random"})
    headers = [("kafka_replyTopic", wire.reply_topic.encode()), deadline(40)]
    for _ in range(COUNT):
        producer.produce(wire.queries, value, str(user), headers=list(headers))
    assert producer.flush(WAIT_S) == 0

    def replies() -> Counter[str | None] | None:
        found = Counter(reply.error for reply in wire.arrived()[seen:])
        return found if found.total() == COUNT else None

    found = until(replies, f"{COUNT} replies", 90)
    print(found)
    assert set(found) == {"overloaded", "not_caught_up"}
    assert found["overloaded"] > 100
    assert wire.get(user)
