"""Load at a steady rate for the benches: updates and queries, each sent when it is due.

Open loop: no query waits for the answer to another, so a service that does not answer is still
asked, and the wait of each query counts from the moment it was due (no coordinated omission).
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from readstates.schemas.partitioner import partition_of
from readstates.streams.config import Settings

from ..proof.steady import Steady
from ..proof.traffic import Record

TICK_S = 0.01
DEADLINE_S = 55.0  # a query waits rather than being refused
REPLY_TOPIC = "read-states.replies.bench"
PRODUCER = {
    "partitioner": "murmur2_random",
    "enable.idempotence": True,
    "queue.buffering.max.messages": 1_000_000,
    "log_level": 2,  # the servers may end before it does
}


def create_reply_topic(settings: Settings, name: str = REPLY_TOPIC) -> None:
    """The topic that the replies of a bench go to."""
    admin = AdminClient(settings.librdkafka(log_level=2))
    for future in admin.create_topics([NewTopic(name, 1, 1)]).values():
        future.result(30)


def send_all(settings: Settings, records: Iterator[Record]) -> int:
    """Produce all records as fast as the broker takes them; returns how many."""
    producer = Producer(settings.librdkafka(**PRODUCER, **{"linger.ms": 20}))
    sent = 0
    for record in records:
        _produce(producer, settings.updates_topic, record.value, record.key)
        sent += 1
    if producer.flush(120):
        raise click.ClickException("the broker did not take all updates")
    return sent


def _produce(producer: Producer, topic: str, value: Any, key: Any, **more: Any) -> None:
    while True:
        try:
            producer.produce(topic, value, key, **more)
        except BufferError:
            producer.poll(0.1)
        else:
            return


class Updates(Steady):
    """Produces `records` at a steady rate. `topic`: another one than that of the updates."""

    def __init__(
        self, settings: Settings, records: Iterator[Record], per_second: float, topic: str = ""
    ) -> None:
        super().__init__(per_second, TICK_S)
        self._topic = topic or settings.updates_topic
        self._records = records
        self._producer = Producer(settings.librdkafka(**PRODUCER, **{"linger.ms": 20}))
        self.sent = 0

    def tick(self, due: int) -> None:
        for record in itertools.islice(self._records, due):
            _produce(self._producer, self._topic, record.value, record.key, headers=record.headers)
            self.sent += 1
        self._producer.poll(0)

    def finish(self) -> None:
        super().finish()
        self._producer.flush(60)


class Queries(Steady):
    """Asks for all read states of a user at a steady rate; users take turns in a random order.

    `sent_s`, `took_s` (-1: no answer), `partition`: one entry per query. `pick` chooses the users
    in another way. Something else may be asked, over `topic`, with another topic for its replies.
    """

    def __init__(
        self,
        settings: Settings,
        partitions: int,
        user_ids: Sequence[int],
        per_second: float,
        pick: Callable[[int], Sequence[int]] | None = None,
        topic: str = "",
        reply_topic: str = REPLY_TOPIC,
    ) -> None:
        super().__init__(per_second, TICK_S)
        self._topic, self._reply_topic = topic or settings.queries_topic, reply_topic
        self._partitions = partitions
        drawn = itertools.cycle(random.Random(2).sample(user_ids, len(user_ids)))
        self._pick = pick or (lambda count: list(itertools.islice(drawn, count)))
        self.sent_s = array("d")
        self.took_s = array("d")
        self.partition = array("h")
        self.errors = 0
        self._producer = Producer(settings.librdkafka(**PRODUCER, **{"linger.ms": 0}))
        self._consumer = Consumer(
            settings.librdkafka(
                **{
                    "group.id": "bench-client",
                    "enable.auto.commit": False,
                    "fetch.wait.max.ms": 20,
                }
            )
        )
        place = TopicPartition(reply_topic, 0)
        place.offset = self._consumer.get_watermark_offsets(place, timeout=30)[1]
        self._consumer.assign([place])
        self._read_until_s = float("inf")
        self._answered = 0
        self._reader = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._reader.start()
        super().start()

    def tick(self, due: int) -> None:
        deadline_ms = b"%d" % int((time.time() + DEADLINE_S) * 1000)
        for user_id in self._pick(due):
            key = b"%d" % user_id
            number = len(self.sent_s)
            self.partition.append(partition_of(key, self._partitions))
            self.took_s.append(-1.0)
            self.sent_s.append(time.monotonic())
            _produce(
                self._producer,
                self._topic,
                b'{"type": "get", "user_id": %d}' % user_id,
                key,
                headers={
                    "kafka_replyTopic": self._reply_topic,
                    "kafka_correlationId": b"%d" % number,
                    "read-states-deadline": deadline_ms,
                },
            )
        self._producer.poll(0)

    def _read(self) -> None:
        try:
            while time.monotonic() < self._read_until_s:
                first = self._consumer.poll(0.02)
                # `consume` with a timeout waits for all of it, unless 500 messages come
                more = [] if first is None else [first, *self._consumer.consume(500, 0)]
                for message in more:
                    if message.error() is not None:
                        raise KafkaException(message.error())
                    self._note(message)
                if self._finished.is_set() and self._answered + self.errors >= len(self.sent_s):
                    return
        except BaseException as exc:  # noqa: BLE001 - the bench fails with it, see `finish`
            self.failure = exc
        finally:
            self._consumer.close()

    def _note(self, message: Any) -> None:
        headers = dict(message.headers() or [])
        number = int(headers["kafka_correlationId"])
        if "read-states-error" in headers:
            self.errors += 1
        elif number < len(self.took_s) and self.took_s[number] < 0:
            self.took_s[number] = time.monotonic() - self.sent_s[number]
            self._answered += 1

    def finish(self, wait_s: float = DEADLINE_S) -> None:
        """Stop asking, and wait for the answers that are still to come, for at most `wait_s`."""
        self._read_until_s = time.monotonic() + wait_s
        super().finish()
        self._producer.flush(10)
        self._reader.join()
        if self.failure is not None:
            raise self.failure

    def between(self, begin_s: float, end_s: float) -> Iterator[tuple[float, float, int]]:
        """(sent, took, partition) of the queries sent in this time; -1: not answered."""
        for sent_s, took_s, partition in zip(
            self.sent_s, self.took_s, self.partition, strict=False
        ):
            if begin_s <= sent_s < end_s:
                yield sent_s, took_s, partition
