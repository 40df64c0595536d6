"""Writes what arrives in the topics into a recording, in one order."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from readstates.schemas.headers import (
    HEADER_CLOCK,
    HEADER_CORRELATION_ID,
    HEADER_REPLY_TOPIC,
    headers_of,
)
from readstates.schemas.probes import HEADER_PROBE

from ..config import Settings
from ..errors import TopicError
from ..kafka.topics import topics_of
from .anonymiser import Anonymiser
from .options import RIGHTS
from .recording import QUERIES, REPLIES, UPDATES, Merge, Recorded, encode

BATCH_MESSAGES = 1_000
IDLE_S = 0.2
TOPICS_S = 2.0  # between two looks for reply topics that were made since
TIMEOUT_S = 15.0
REPLY_LATE_MS = 1_000  # a reply may be read so much before its query, and still follows it


class RecordedTopics:
    """The topics that are read, by a consumer that has been given updates and queries already.

    With `replies`, also every topic that matches REPLY_TOPICS: those that are there now from their
    end, and those made later from their beginning. A reply topic that is deleted is no error.
    """

    def __init__(self, settings: Settings, consumer: Consumer, replies: bool) -> None:
        self._kinds = {settings.updates_topic: UPDATES, settings.queries_topic: QUERIES}
        self._consumer = consumer
        self._pattern: re.Pattern[str] = settings.reply_topic_pattern
        self._own = {*topics_of(settings), settings.changes_topic}
        self._replies = replies
        self._looked = 0.0
        self._look(is_start=True)

    def read(self) -> Iterator[tuple[str, Any]]:
        """Messages that have arrived, each with its kind. Raises TopicError."""
        if time.monotonic() - self._looked > TOPICS_S:
            self._look()
        for message in self._consumer.consume(BATCH_MESSAGES, IDLE_S):
            kind = self._kinds.get(message.topic(), REPLIES)
            if message.error() is None:
                yield kind, message
            elif kind != REPLIES:
                why = message.error().str()
                raise TopicError(f"{message.topic()} cannot be read: {why}. {RIGHTS}")

    def _look(self, *, is_start: bool = False) -> None:
        self._looked = time.monotonic()
        if not self._replies:
            return
        found = self._consumer.list_topics(timeout=TIMEOUT_S).topics
        new = [
            TopicPartition(name, number, OFFSET_BEGINNING)
            for name, topic in found.items()
            if name not in self._kinds and topic.error is None and self._is_reply_topic(name)
            for number in topic.partitions
        ]
        if is_start:  # OFFSET_END would be the end of a later moment
            for place in new:
                place.offset = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1]
        if new:
            self._consumer.incremental_assign(new)
            self._kinds |= {place.topic: REPLIES for place in new}

    def _is_reply_topic(self, name: str) -> bool:
        return self._pattern.fullmatch(name) is not None and name not in self._own


class Recorder:
    """Writes records to `out` until there are `records_max`; `finish` writes the last ones."""

    def __init__(
        self,
        topics: RecordedTopics,
        out: BinaryIO,
        records_max: int,
        anonymiser: Anonymiser | None = None,
    ) -> None:
        self._topics, self._out, self._records_max = topics, out, records_max
        self._anonymiser = anonymiser
        self._merge = Merge()
        self._taken = 0
        self.counts = {UPDATES: 0, QUERIES: 0, REPLIES: 0}  # records written

    @property
    def is_full(self) -> bool:
        return self._taken >= self._records_max

    def step(self) -> None:
        """Read what has arrived, or wait a moment."""
        for kind, message in self._topics.read():
            if self.is_full:
                break
            self._take(kind, message)
        self._out.flush()  # a reader, and a kill, find all but the last REORDER_MS

    def finish(self) -> None:
        """Write the records that wait for older ones."""
        self._write(self._merge.rest())

    def _take(self, kind: str, message: Any) -> None:
        headers = headers_of(message)
        kinds = {name for name, _ in headers}
        if HEADER_PROBE in kinds or (message.value() is None and HEADER_CLOCK in kinds):
            return  # no client's query: a worker asks itself, or compares clocks
        timestamp_ms = message.timestamp()[1]
        if kind == REPLIES:  # its clock may be any client's
            timestamp_ms = self._merge.newest_ms + REPLY_LATE_MS
            headers = _joinable(headers, message)
        record = Recorded(
            0,
            kind,
            message.partition(),
            message.key(),
            message.value(),
            headers,
            message.offset() if kind == UPDATES else None,
        )
        self._taken += 1
        self._write(self._merge.add(timestamp_ms, (kind, record.partition), record))

    def _write(self, ordered: Iterator[tuple[int, Recorded]]) -> None:
        for timestamp_ms, record in ordered:
            made: Recorded | None = record._replace(timestamp_ms=timestamp_ms)
            if self._anonymiser is not None and made is not None:
                made = self._anonymiser(made)
            if made is not None:
                self.counts[made.topic] += 1
                self._out.write(encode(made))


def _joinable(
    headers: list[tuple[str, bytes | None]], message: Any
) -> list[tuple[str, bytes | None]]:
    """A reply's headers with its topic, and the correlation ID that Faust puts in the value."""
    made = [(name, value) for name, value in headers if name != HEADER_REPLY_TOPIC]
    made.append((HEADER_REPLY_TOPIC, message.topic().encode()))
    correlation_id = correlation_id_of(dict(headers), message.value())
    if correlation_id is not None and all(name != HEADER_CORRELATION_ID for name, _ in headers):
        made.append((HEADER_CORRELATION_ID, correlation_id))
    return made


def correlation_id_of(headers: Mapping[str, bytes | None], value: bytes | None) -> bytes | None:
    """The correlation ID of a reply: in its header or, in Faust's dialect, in its value."""
    found = headers.get(HEADER_CORRELATION_ID)
    if found is None and b'"__faust"' in (value or b""):
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # no reply of ours
            in_value: str = orjson.loads(value or b"")["correlation_id"]
            return in_value.encode()
    return found
