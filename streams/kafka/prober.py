"""Sends probes, as any client sends queries, and reads their replies.

A probe is a query (`schemas/probes.py`) for one partition, and asks for an answer that knows all
updates which were in the log at the probe before it. Its key decides on its partition, and with
each probe of a partition another key is used: if the topic has other partitions than the workers
know of, some probes go where nobody reads them, as do some clients' queries.

All probes of a leader go in one request (`bundles.py`). Sent one by one, they would cost a worker
of many partitions several times as much, because its fetches would bring a few of them each. The
brokers stamp the probes, and `BrokerClocks` compares its clock with these stamps.

The connections and the consumer are used for nothing else, so what is wrong with the worker's other
clients is not wrong with these. They may have troubles of their own, for instance after a topic was
deleted and made anew: `reopen` makes new ones.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from readstates.schemas.headers import (
    HEADER_CLOCK,
    HEADER_CORRELATION_ID,
    HEADER_ERROR,
    HEADER_REPLY_TOPIC,
    headers_of,
)
from readstates.schemas.partitioner import partition_of
from readstates.schemas.probes import HEADER_PROBE, encode_probe, probe_mark, probe_users
from readstates.schemas.wire import key_bytes

from ..config import Settings
from .bundles import Bundles, Item
from .login import login
from .one_record import batch_of, encoded_headers
from .protocol import Broker

REQUEST_TIMEOUT_S = 3.0
SEND_TIMEOUT_S = 5.0  # as long as a query has by default
SOON_S = 0.01  # until the next look at probes that the brokers have not taken yet
FETCH_WAIT_MS = 500  # an idle fetch waits at the broker, and the next request behind it
LEADERS_S = 10.0  # a client that has just started knows of new partitions, so must this one
LEADERS_RETRY_S = 0.5  # the same after a broker did not take a probe
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
HEADERS = 4  # of a probe
ID_BYTES = 16  # of a correlation ID: of this process, and a number


class Prober:
    """See the module. `partitions` is the count that the workers know of. For one thread.

    `stamped`: see `Bundles`.
    """

    def __init__(
        self,
        settings: Settings,
        partitions: int,
        stamped: Callable[[int, float, int, float], None],
    ) -> None:
        self._settings = settings
        self._users = probe_users(partitions)
        self._prefix, self._ids = os.urandom(ID_BYTES // 2), itertools.count()  # of IDs
        self._turn = 0  # of the users of each partition
        reply_topic = settings.probes_topic.encode()
        mark = probe_mark(settings.kafka_group if settings.is_candidate else "")
        headers = [(HEADER_PROBE, mark), (HEADER_CLOCK, b""), (HEADER_REPLY_TOPIC, reply_topic)]
        no_id = bytes(ID_BYTES)
        encoded = encoded_headers([*headers, (HEADER_CORRELATION_ID, no_id)])
        self._headers = encoded.removesuffix(no_id)  # all but the ID itself
        self._ends: dict[int, int] = {}  # of updates, by partition, at the last probe
        self._unsent: list[Taken] = []
        self._consumer: Consumer | None = None
        self._bundles = Bundles(settings.queries_topic, login(settings), self._note_unsent, stamped)
        self._partitions = partitions  # that the topic has now
        self._leaders_at = -LEADERS_S  # time.monotonic() at which the leaders were asked for

    def ask(self, numbers: Sequence[int]) -> dict[bytes, int]:
        """Send a probe to each of these partitions; returns their numbers by correlation ID.

        If Kafka does not answer, each of them is `taken` as UNSENT. None is sent without a topic
        for their replies, which the watch reports.
        """
        ids = {
            self._prefix + next(self._ids).to_bytes(ID_BYTES // 2, "big"): number
            for number in numbers
        }
        self._turn += 1
        try:
            consumer = self._reader()
            if consumer is None:
                return {}
            known, self._ends = self._ends, self._look_up_ends(consumer, [*ids.values()])
            self._look_up_leaders(consumer)
        except KafkaException as exc:
            for correlation_id in ids:
                self._note_unsent(correlation_id, exc)
            return ids
        until = time.monotonic() + SEND_TIMEOUT_S
        self._bundles.send(
            [
                self._probe(number, known.get(number, 0), correlation_id, until)
                for correlation_id, number in ids.items()
            ]
        )
        self._bundles.step()
        return ids

    def _probe(self, number: int, end: int, correlation_id: bytes, until: float) -> Item:
        """A probe of a partition. `end`: of the updates that the answer must know."""
        users = self._users[number]
        user_id = users[self._turn % len(users)]
        key = key_bytes(user_id)
        value = encode_probe(user_id, end - 1 if end else None)
        if self._partitions != len(self._users):
            number = partition_of(key, self._partitions)
        headers, time_ms = self._headers + correlation_id, time.time_ns() // 1_000_000
        batch = batch_of(key, value, headers, HEADERS, time_ms)
        return Item(number, correlation_id, batch, until)

    def take(self, timeout_s: float) -> list[Taken]:
        """The replies that have come since, and the probes that could not be sent.

        It may return before `timeout_s`, with nothing.
        """
        taken: list[Taken] = []
        if self._bundles.is_busy:
            timeout_s = min(timeout_s, SOON_S)
        if self._consumer is None:
            time.sleep(timeout_s)
        elif (first := self._consumer.poll(timeout_s)) is not None:
            at = time.monotonic()
            for message in (first, *self._consumer.consume(TAKEN_MAX, 0)):
                if (found := self._read(message, at)) is not None:
                    taken.append(found)
        if self._consumer is not None and self._bundles.lacks_leaders:
            self._look_up_leaders(self._consumer)
        self._bundles.step()
        unsent, self._unsent = self._unsent, []
        return taken + unsent

    def reopen(self) -> None:
        """Use new clients for the next probes."""
        self.close()
        self._ends = {}

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
        self._consumer, self._leaders_at = None, -LEADERS_S
        self._bundles.close()

    def _reader(self) -> Consumer | None:
        """The consumer of replies; None without a topic for them. Raises KafkaException.

        It reads that topic from its present end.
        """
        if self._consumer is None:
            consumer = Consumer(
                self._settings.librdkafka(
                    **{
                        "client.id": "read-states-probe",
                        "group.id": self._settings.kafka_group,  # never joined
                        "enable.auto.commit": False,
                        "isolation.level": "read_uncommitted",  # the ends, with open transactions
                        "fetch.wait.max.ms": FETCH_WAIT_MS,
                        "allow.auto.create.topics": False,
                        "log_level": 0,
                    }
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
        return self._consumer

    def _look_up_leaders(self, consumer: Consumer) -> None:
        """Ask who leads the partitions of queries, if that is due."""
        now, bundles = time.monotonic(), self._bundles
        pause_s = LEADERS_RETRY_S if bundles.lacks_leaders else LEADERS_S
        if now < self._leaders_at + pause_s:
            return
        self._leaders_at, name = now, self._settings.queries_topic
        try:
            found = consumer.list_topics(name, timeout=REQUEST_TIMEOUT_S)
        except KafkaException:  # without leaders, the probes are refused
            return
        places = found.topics[name].partitions
        self._partitions = len(places) or self._partitions
        bundles.note_leaders(
            {number: place.leader for number, place in places.items() if place.leader >= 0},
            {number: Broker(one.host, one.port) for number, one in found.brokers.items()},
        )

    def _look_up_ends(self, consumer: Consumer, numbers: list[int]) -> dict[int, int]:
        """The ends of the log of updates, with what open transactions hold back, in one request."""
        name = self._settings.updates_topic
        asked = [TopicPartition(name, number, OFFSET_END) for number in numbers]
        found = consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in found}

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
