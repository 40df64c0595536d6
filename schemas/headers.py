"""Record headers of queries and replies, in both dialects.

Spring's ReplyingKafkaTemplate writes the plain dialect, and Faust's `agent.ask` the other one. If a
query has both, the plain one counts; if a header is repeated, the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from operator import methodcaller
from typing import Any, NamedTuple, Protocol

from .fields import DecodeError

HEADER_REPLY_TOPIC = "kafka_replyTopic"
HEADER_CORRELATION_ID = "kafka_correlationId"
HEADER_REPLY_PARTITION = "kafka_replyPartition"
HEADER_DEADLINE = "read-states-deadline"
HEADER_ERROR = "read-states-error"
HEADER_CLOCK = "read-states-clock"  # of a worker's own record, with which it compares clocks
HEADER_ROLE = "read-states-role"  # of a reply in a shadow topic: the role of the worker
HEADER_TRACEPARENT = "traceparent"  # W3C Trace Context; a reply has that of its query
HEADER_FAUST_REPLY_TOPIC = "Faust-Ag-ReplyTo"
HEADER_FAUST_CORRELATION_ID = "Faust-Ag-CorrelationId"

DIALECT_PLAIN = "plain"
DIALECT_FAUST = "faust"

DEADLINE_DEFAULT_MS = 5_000
DEADLINE_MAX_MS = 60_000
DEADLINE_DIGITS_MAX = 18
CORRELATION_ID_BYTES_MAX = 4096
TRACEPARENT_BYTES_MAX = 128  # version 00 has 55, and a later one may have more
TOPIC_NAME = re.compile(rb"[A-Za-z0-9._-]{1,249}")  # what Kafka takes; no other name can exist

_headers = methodcaller("headers")

Headers = Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]]


class Message(Protocol):
    """A message as confluent-kafka gives it."""

    def headers(self) -> Any: ...


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """The headers of a message; none if the name of one is not UTF-8.

    Whoever may write to a topic may give a header such a name. confluent-kafka (2.16) then returns
    with an error set. It is raised where Python checks the result, as SystemError, which would end
    the thread that reads. CPython 3.11 does not check it in a call that was made often enough to be
    specialized, and raises the error somewhere later on; `methodcaller` always does.
    """
    try:
        found: list[tuple[str, bytes | None]] = _headers(message) or []
    except (SystemError, UnicodeDecodeError):
        return []
    return found


class ReplyAddress(NamedTuple):
    """The address of a reply, and its dialect. `traceparent` goes back as it came."""

    topic: str
    partition: int | None
    correlation_id: bytes | None
    dialect: str
    traceparent: bytes | None = None


def reply_address(headers: Headers) -> ReplyAddress | None:
    """The usable reply address of a query; None if there is none.

    A correlation ID over CORRELATION_ID_BYTES_MAX makes the address unusable, because the reply
    would have to repeat the ID. A `traceparent` over TRACEPARENT_BYTES_MAX is left out.
    """
    values = dict(headers)
    dialect, names = DIALECT_PLAIN, (HEADER_REPLY_TOPIC, HEADER_CORRELATION_ID)
    if HEADER_REPLY_TOPIC not in values:
        dialect, names = DIALECT_FAUST, (HEADER_FAUST_REPLY_TOPIC, HEADER_FAUST_CORRELATION_ID)
    topic, correlation_id = values.get(names[0]), values.get(names[1])
    if topic is None or TOPIC_NAME.fullmatch(topic) is None:
        return None
    if correlation_id is not None and len(correlation_id) > CORRELATION_ID_BYTES_MAX:
        return None
    partition = None
    if dialect == DIALECT_PLAIN and HEADER_REPLY_PARTITION in values:
        raw = values[HEADER_REPLY_PARTITION]
        if raw is None or len(raw) != 4:
            return None
        partition = int.from_bytes(raw, "big", signed=True)
        if partition < 0:
            return None
    trace = values.get(HEADER_TRACEPARENT)
    if trace is not None and len(trace) > TRACEPARENT_BYTES_MAX:
        trace = None
    return ReplyAddress(topic.decode("ascii"), partition, correlation_id, dialect, trace)


def query_headers(
    reply_topic: str, correlation_id: bytes, deadline_ms: int
) -> list[tuple[str, str | bytes | None]]:
    """The headers of a query in the plain dialect; `deadline_ms`: since the epoch."""
    return [
        (HEADER_REPLY_TOPIC, reply_topic.encode()),
        (HEADER_CORRELATION_ID, correlation_id),
        (HEADER_DEADLINE, b"%d" % deadline_ms),
    ]


def deadline_ms(headers: Headers, timestamp_ms: int, ahead_ms: int = 0) -> int:
    """The time after which the reply is useless, in ms since the epoch, by the caller's clock.

    `ahead_ms`: how far that clock is ahead of the broker's, which made the timestamp. A deadline
    that the client gives is by the client's clock. Nobody knows whose clock that agrees with, so it
    counts by the broker's clock or by the caller's, whichever allows more. A deadline later than
    DEADLINE_MAX_MS after the record's timestamp is brought forward to that. Raises DecodeError for
    a malformed header.
    """
    timestamp_ms += ahead_ms
    values = dict(headers)
    if HEADER_DEADLINE not in values:
        return timestamp_ms + DEADLINE_DEFAULT_MS
    raw = values[HEADER_DEADLINE] or b""
    if not raw.isdigit():
        raise DecodeError(
            "invalid_field", HEADER_DEADLINE, f"expected ms since the epoch, got {raw[:40]!r}"
        )
    digits = raw.lstrip(b"0") or b"0"
    latest = timestamp_ms + DEADLINE_MAX_MS
    if len(digits) > DEADLINE_DIGITS_MAX:  # Java's Long.MAX_VALUE for "never", and beyond
        return latest
    return min(int(digits) + max(0, ahead_ms), latest)
