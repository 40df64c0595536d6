"""Recordings: the file that `readstates record` writes and `readstates replay` reads.

A recording is a file of JSON lines. The first line names the format and the partitions of the
topics. Every other line is a record, in the order in which the brokers got them:

    {"timestamp_ms", "topic": "updates" | "queries" | "replies", "partition", "key", "value",
     "headers": [[name, value], …], "offset"}

`timestamp_ms` is the brokers' timestamp (both topics have LogAppendTime), in ms since the epoch.
`offset`, which updates have, says which version an update gave to what it changed. Bytes that are
UTF-8 are written as text, other bytes as {"base64": …}, and null as null. Nothing is left out: a
wrong record of the log is also in the recording. The file holds users' IDs and what they read, so
only its owner can read it (mode 600).

Replies are there if they were asked for. A reply has the timestamp of the record before it, and the
header `kafka_replyTopic`, which names its topic, besides its own headers.
"""

from __future__ import annotations

import base64
import heapq
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from .lines import LineTooLongError, bounded_lines

HEAD_BYTES_MAX = 1 << 10  # of the first line
PARTITIONS_MAX = 1 << 31  # Kafka has 32 bits, with a sign, for a partition's number
FORM = "read-states-recording"
VERSION = 1
UPDATES, QUERIES, REPLIES = "updates", "queries", "replies"
ORDER = {UPDATES: 0, QUERIES: 1, REPLIES: 2}  # of records of one millisecond
REORDER_MS = 2_000  # how long a record waits for older ones of other partitions


class Recorded(NamedTuple):
    """One record of a recording."""

    timestamp_ms: int  # since the epoch, never less than that of the record before
    topic: str  # UPDATES, QUERIES or REPLIES
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    offset: int | None = None  # of an update


class RecordingError(ValueError):
    """The file is not a recording, or is damaged; the text names the line."""


def head_line(partitions: int, *, is_anonymous: bool = False) -> bytes:
    """The first line of a recording."""
    head = {"form": FORM, "version": VERSION, "partitions": partitions}
    return orjson.dumps(head | ({"anonymised": True} if is_anonymous else {})) + b"\n"


def encode(record: Recorded) -> bytes:
    """A record as a line."""
    body = record._asdict()
    body["key"], body["value"] = _as_json(record.key), _as_json(record.value)
    body["headers"] = [[name, _as_json(value)] for name, value in record.headers]
    if not record.headers:
        del body["headers"]
    if record.offset is None:
        del body["offset"]
    return orjson.dumps(body) + b"\n"


def decode(line: bytes) -> Recorded:
    """A line as a record. Raises ValueError."""
    body = orjson.loads(line)
    try:
        record = Recorded(
            body["timestamp_ms"],
            body["topic"],
            body["partition"],
            _from_json(body["key"]),
            _from_json(body["value"]),
            [(name, _from_json(value)) for name, value in body.get("headers", ())],
            body.get("offset"),
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a record: {exc!r}") from None
    if record.topic not in ORDER or type(record.timestamp_ms) is not int:
        raise ValueError("not a record: topic or timestamp_ms is wrong")
    if type(record.partition) is not int or not 0 <= record.partition < PARTITIONS_MAX:
        raise ValueError("not a record: partition is wrong")
    if record.offset is not None and (type(record.offset) is not int or record.offset < 0):
        raise ValueError("not a record: offset is wrong")
    if not all(type(name) is str for name, _ in record.headers):
        raise ValueError("not a record: the name of a header is wrong")
    return record


def _as_json(raw: bytes | None) -> Any:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        assert raw is not None
        return {"base64": base64.b64encode(raw).decode()}


def _from_json(form: Any) -> bytes | None:
    if isinstance(form, dict):
        return base64.b64decode(form["base64"], validate=True)
    return None if form is None else form.encode()


def partitions_of(file: Path) -> int:
    """The number of partitions that the recorded topics had. Raises RecordingError."""
    with file.open("rb") as source:
        line = source.readline(HEAD_BYTES_MAX)
    try:
        head = orjson.loads(line)
        if head["form"] == FORM and head["version"] == VERSION:
            return int(head["partitions"])
    except (ValueError, KeyError, TypeError):
        pass
    raise RecordingError(f"{file}: line 1: not a recording of version {VERSION}")


def read(file: Path) -> Iterator[Recorded]:
    """The records of a recording, in order. Raises RecordingError."""
    partitions_of(file)
    with file.open("rb") as source:
        try:
            for number, line in bounded_lines(source):
                if number > 1:
                    yield _decode(file, number, line)
        except LineTooLongError as exc:
            raise RecordingError(f"{file}: {exc}") from None


def _decode(file: Path, number: int, line: bytes) -> Recorded:
    try:
        return decode(line)
    except ValueError as exc:
        raise RecordingError(f"{file}: line {number}: {exc}") from None


class Merge:
    """Sorts records of several partitions by timestamp and keeps each partition's own order.

    Within a millisecond updates come first, because a query may wait for the update just before it,
    and replies come last.
    A record waits until a record that is REORDER_MS newer was seen. A record that comes later than
    that goes out at once, with the timestamp of the last record before it. Replies do not count as
    newer records: their place in time is chosen by whoever adds them.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, Any]] = []
        self._count = itertools.count()
        self._newest: dict[tuple[str, int], int] = {}  # by topic and partition
        self._last = 0

    @property
    def newest_ms(self) -> int:
        """The latest timestamp of an update or a query so far; 0 before the first record."""
        known = (at for (kind, _), at in self._newest.items() if kind != REPLIES)
        return max(known, default=0)

    def add(
        self, timestamp_ms: int, place: tuple[str, int], item: Any
    ) -> Iterator[tuple[int, Any]]:
        """Add a record; returns the records that are in order."""
        at = max(timestamp_ms, self._newest.get(place, 0))  # a new leader's clock may be behind
        self._newest[place] = at
        heapq.heappush(self._waiting, (at, ORDER[place[0]], next(self._count), item))
        yield from self._out(self.newest_ms - REORDER_MS)

    def rest(self) -> Iterator[tuple[int, Any]]:
        """The records that still wait."""
        yield from self._out(None)

    def _out(self, up_to_ms: int | None) -> Iterator[tuple[int, Any]]:
        while self._waiting and (up_to_ms is None or self._waiting[0][0] <= up_to_ms):
            at, _, _, item = heapq.heappop(self._waiting)
            self._last = max(self._last, at)
            yield self._last, item
