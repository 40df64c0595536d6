"""A topic on real brokers, and a reader of it with what it delivered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from readstates.streams.config import Settings
from readstates.streams.kafka.reader import Poll, Reader
from readstates.streams.kafka.reading import UPDATES, Limits
from readstates.streams.partition.batch import Batch
from tests.support import raw_batches as raw

WAIT_S = 60.0
ENV = "READ_STATES_"


class Topic:
    """A topic of a test, and who writes to it."""

    def __init__(self, config: dict[str, Any], partitions: int = 1, **topic: Any) -> None:
        self.config, self.name = config, f"reader-{uuid.uuid4().hex[:8]}"
        self.admin, self.partitions = AdminClient(config), partitions
        self.create(**topic)

    def create(self, copies: int = 1, **settings: str) -> None:
        dotted = {key.replace("_", "."): value for key, value in settings.items()}
        new = NewTopic(self.name, self.partitions, copies, config=dotted)
        self.admin.create_topics([new])[self.name].result(WAIT_S)

    def write(self, *values: bytes, number: int = 0, codec: str = "none") -> None:
        """One batch of these values."""
        more = {"linger.ms": 200, "compression.type": codec, "acks": "all"}
        producer = Producer({**self.config, **more})
        for index, value in enumerate(values):
            producer.produce(
                self.name, value, b"k%d" % index, partition=number, headers=[("h", b"x%d" % index)]
            )
        assert producer.flush(WAIT_S) == 0

    def write_batch(self, batch: bytes, number: int = 0) -> int:
        placed = raw.produce(self.config["bootstrap.servers"], self.name, number, batch)
        assert placed >= 0
        return placed

    def by_librdkafka(self, start: int, end: int) -> list[tuple[Any, ...]]:
        """What another client reads."""
        consumer = Consumer({**self.config, "group.id": "x", "isolation.level": "read_committed"})
        consumer.assign([TopicPartition(self.name, 0, start)])
        found: list[tuple[Any, ...]] = []
        try:
            while not found or found[-1][0] < end - 1:
                message = consumer.poll(WAIT_S)
                assert message is not None
                assert message.error() is None, message.error()
                fields = (message.key(), message.value(), message.headers() or [])
                found.append((message.offset(), message.timestamp()[1], *fields))
        finally:
            consumer.close()
        return found


class Read:
    """A reader of a topic, and what it delivered."""

    def __init__(self, topic: Topic, limits: Limits, settings: Settings) -> None:
        self.batches: list[tuple[int, int, Batch]] = []
        self.refused: list[Exception] = []
        self.room = 1 << 30
        self.reader = Reader(
            settings, topic.name, limits, self._put, self.refused.append, lambda _number: self.room
        )

    def _put(self, poll: Poll) -> None:
        self.batches += poll

    def of(self, number: int = 0, token: int = 1) -> list[Batch]:
        found = [batch for at, its, batch in self.batches if (at, its) == (number, token)]
        for before, after in zip(found, found[1:], strict=False):  # noqa: RUF007
            assert before.end == after.start
        return found

    def records(self, number: int = 0, token: int = 1) -> list[Any]:
        return [record for batch in self.of(number, token) for record in batch.records]

    def offsets(self, number: int = 0, token: int = 1) -> list[int]:
        return [record.offset for record in self.records(number, token)]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 (another thread changes it)
                await asyncio.sleep(0.01)

    async def up_to(self, end: int, number: int = 0, token: int = 1) -> list[int]:
        await self.until(lambda: any(batch.end >= end for batch in self.of(number, token)))
        return self.offsets(number, token)


@asynccontextmanager
async def reading(topic: Topic, limits: Limits = UPDATES, **settings: Any) -> AsyncIterator[Read]:
    known = Settings(kafka_bootstrap=topic.config["bootstrap.servers"], **settings)
    read = Read(topic, limits, known)
    try:
        yield read
    finally:
        read.reader.close()
