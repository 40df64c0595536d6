"""Sends probes, as any client sends queries, and reads their replies.

A probe is a query (`schemas/probes.py`) for one partition, and asks for an answer that knows all
updates which were in the log at the probe before it. Its key decides on its partition, and with
each probe of a partition another key is used: if the topic has other partitions than the workers
know of, some probes go where nobody reads them, as do some clients' queries.

The producer and the consumer are used for nothing else, so what is wrong with the worker's other
clients is not wrong with these. They may have troubles of their own, for instance after a topic was
deleted and made anew: `reopen` makes new ones.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from readstates.schemas.headers import (
    HEADER_CORRELATION_ID,
    HEADER_ERROR,
    HEADER_REPLY_TOPIC,
    headers_of,
)
from readstates.schemas.probes import HEADER_PROBE, encode_probe, probe_mark, probe_users
from readstates.schemas.wire import key_bytes

from ..config import Settings

REQUEST_TIMEOUT_S = 3.0
SEND_TIMEOUT_MS = 5_000  # as long as a query has by default
FETCH_WAIT_MS = 500  # an idle fetch waits at the broker, and the next request behind it
METADATA_MS = 10_000  # a client that has just started knows of new partitions, so must this one
TAKEN_MAX = 1_000  # replies that are taken at once
TEXT_MAX = 1_000  # bytes of an error reply that are shown
NO_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
)


class Taken(NamedTuple):
    """What came of a probe: a reply, or an error."""

    correlation_id: bytes
    code: str  # of an error reply; UNSENT if the brokers did not take the probe; otherwise empty
    text: str
    at: float  # time.monotonic()


UNSENT = "unsent"


class Prober:
    """See the module. `partitions` is the count that the workers know of. For one thread."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self._settings = settings
        self._users = probe_users(partitions)
        self._prefix, self._ids = os.urandom(8), itertools.count()  # of correlation IDs
        self._turn = 0  # of the users of each partition
        self._reply_topic = settings.probes_topic.encode()
        self._mark = probe_mark(settings.kafka_group if settings.is_candidate else "")
        self._ends: dict[int, int] = {}  # of updates, by partition, at the last probe
        self._unsent: list[Taken] = []
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None

    def ask(self, numbers: Sequence[int]) -> dict[bytes, int]:
        """Send a probe to each of these partitions; returns their numbers by correlation ID.

        If Kafka does not answer, each of them is `taken` as UNSENT. None is sent without a topic
        for their replies, which the watch reports.
        """
        ids = {self._prefix + next(self._ids).to_bytes(8, "big"): number for number in numbers}
        self._turn += 1
        try:
            clients = self._clients()
            if clients is None:
                return {}
            consumer, producer = clients
            known, self._ends = self._ends, self._look_up_ends(consumer, [*ids.values()])
        except KafkaException as exc:
            for correlation_id in ids:
                self._note_unsent(correlation_id, exc)
            return ids
        for correlation_id, number in ids.items():
            users = self._users[number]
            user_id, end = users[self._turn % len(users)], known.get(number, 0)
            try:
                producer.produce(
                    self._settings.queries_topic,
                    encode_probe(user_id, end - 1 if end else None),
                    key_bytes(user_id),
                    headers=[
                        (HEADER_PROBE, self._mark),
                        (HEADER_REPLY_TOPIC, self._reply_topic),
                        (HEADER_CORRELATION_ID, correlation_id),
                    ],
                    on_delivery=partial(self._delivered, correlation_id),
                )
            except (BufferError, KafkaException) as exc:
                self._note_unsent(correlation_id, exc)
        return ids

    def take(self, timeout_s: float) -> list[Taken]:
        """The replies that have come since, and the probes that could not be sent."""
        taken: list[Taken] = []
        if self._consumer is None or self._producer is None:
            time.sleep(timeout_s)
        elif (first := self._consumer.poll(timeout_s)) is not None:
            at = time.monotonic()
            for message in (first, *self._consumer.consume(TAKEN_MAX, 0)):
                if (found := self._read(message, at)) is not None:
                    taken.append(found)
        if self._producer is not None:
            self._producer.poll(0)
        unsent, self._unsent = self._unsent, []
        return taken + unsent

    def reopen(self) -> None:
        """Use new clients for the next probes."""
        self.close()
        self._ends = {}

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(REQUEST_TIMEOUT_S)
        self._consumer = self._producer = None

    def _clients(self) -> tuple[Consumer, Producer] | None:
        """The clients; None without a topic for the replies.

        The consumer reads that topic from its present end. Raises KafkaException.
        """
        if self._consumer is None or self._producer is None:
            shared = {"log_level": 0, "allow.auto.create.topics": False}
            consumer = Consumer(
                self._settings.librdkafka(
                    **shared,
                    **{
                        "client.id": "read-states-probe",
                        "group.id": self._settings.kafka_group,  # never joined
                        "enable.auto.commit": False,
                        "isolation.level": "read_uncommitted",  # the ends, with open transactions
                        "fetch.wait.max.ms": FETCH_WAIT_MS,
                    },
                )
            )
            place = TopicPartition(self._settings.probes_topic, 0)
            try:
                _, place.offset = consumer.get_watermark_offsets(place, timeout=REQUEST_TIMEOUT_S)
                consumer.assign([place])
            except KafkaException as exc:
                consumer.close()
                if exc.args[0].code() in NO_TOPIC:
                    return None
                raise
            self._consumer = consumer
            self._producer = Producer(
                self._settings.librdkafka(
                    **shared,
                    **{
                        "client.id": "read-states-probe",
                        "partitioner": "murmur2_random",
                        "linger.ms": 0,
                        "message.timeout.ms": SEND_TIMEOUT_MS,
                        "topic.metadata.refresh.interval.ms": METADATA_MS,
                        "delivery.report.only.error": True,
                    },
                )
            )
        return self._consumer, self._producer

    def _look_up_ends(self, consumer: Consumer, numbers: list[int]) -> dict[int, int]:
        """The ends of the log of updates, with what open transactions hold back, in one request."""
        name = self._settings.updates_topic
        asked = [TopicPartition(name, number, OFFSET_END) for number in numbers]
        found = consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in found}

    def _delivered(self, correlation_id: bytes, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._note_unsent(correlation_id, error)

    def _note_unsent(self, correlation_id: bytes, error: object) -> None:
        text = f"the probe could not be sent: {error}"
        self._unsent.append(Taken(correlation_id, UNSENT, text, time.monotonic()))

    def _read(self, message: Message, at: float) -> Taken | None:
        """A reply to one of our probes; None for anything else."""
        if message.error() is not None:
            return None
        headers = dict(headers_of(message))
        correlation_id = headers.get(HEADER_CORRELATION_ID)
        if not isinstance(correlation_id, bytes) or not correlation_id.startswith(self._prefix):
            return None
        code, value = headers.get(HEADER_ERROR), message.value()
        if code is None:
            return Taken(correlation_id, "", "", at)
        return Taken(correlation_id, _text(bytes(code)), _text(bytes(value or b"")), at)


def _text(raw: bytes) -> str:
    """For a log and for /readyz: short, and without control characters."""
    text = raw[:TEXT_MAX].decode(errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text)
